"""attrs' `define` and `frozen`, for less memory: the house's classes are made with these.

attrs writes a `__repr__` for every class, methods to pickle it, and keeps the source of all that it writes for
debuggers: of our two hundred classes 1.5 MB. Here they share one `__repr__`, which says the same in the same words, are
not pickled, and no source is kept.
"""

import linecache
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from attrs import define, frozen

__all__ = ["define", "frozen"]


@recursive_repr()
def _shown(self: Any) -> str:
    """As attrs shows an instance: what is not to be shown is not, and what is not set yet is NOTHING."""
    told = []
    for each in attrs.fields(type(self)):
        if each.repr:
            value = getattr(self, each.name, attrs.NOTHING)
            told.append(f"{each.name}={repr(value) if each.repr is True else each.repr(value)}")
    name = type(self).__qualname__.rpartition(">.")[2]
    return f"{name}({', '.join(told)})"


def _light(kind: Any) -> Any:
    """``kind``, a decorator of attrs', made so."""

    def decorator(cls: type | None = None, *, repr: bool = True, **options: Any) -> Any:
        if cls is None:
            return lambda cls: decorator(cls, repr=repr, **options)
        made: Any = kind(cls, repr=False, getstate_setstate=False, **options)
        if repr and "__repr__" not in vars(made):
            made.__repr__ = _shown
        linecache.cache.pop(made.__init__.__code__.co_filename, None)  # one for all methods of a class
        return made

    return decorator


if not TYPE_CHECKING:
    define, frozen = _light(attrs.define), _light(attrs.frozen)
