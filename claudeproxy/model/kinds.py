"""attrs' `define` and `frozen`, for less memory: the house's classes are made with these.

Of each class attrs writes how its instances are shown, compared and pickled, keeps the source of all that for
debuggers, and gives the tuple of its fields a class of its own: of our two hundred classes 2.5 MB. Here they share one
way to be shown, compared and hashed, which is attrs' own; they are not pickled; and no source is kept.
"""

import linecache
from collections.abc import Iterator
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from attrs import define, frozen

__all__ = ["define", "frozen"]


@recursive_repr()
def _shown(self: Any) -> str:
    """What is not to be shown is not, and what is not set yet is NOTHING."""
    told = []
    for each in self.__attrs_attrs__:
        if each.repr:
            value = getattr(self, each.name, attrs.NOTHING)
            told.append(f"{each.name}={repr(value) if each.repr is True else each.repr(value)}")
    name = type(self).__qualname__.rpartition(">.")[2]
    return f"{name}({', '.join(told)})"


def _equal(self: Any, other: Any) -> Any:
    """Those of one class whose fields are equal, but for fields that do not count."""
    if other.__class__ is not self.__class__:
        return NotImplemented
    return all(mine == theirs for mine, theirs in zip(_counting(self), _counting(other), strict=True))


def _hashed(self: Any) -> int:
    return hash((type(self), *_counting(self)))


def _counting(instance: Any) -> Iterator[Any]:
    """The values of the fields that count when it is compared."""
    for each in instance.__attrs_attrs__:
        if each.eq:
            value = getattr(instance, each.name)
            yield value if each.eq_key is None else each.eq_key(value)


def _light(kind: Any, is_frozen: bool) -> Any:
    """``kind``, a decorator of attrs', made so."""

    def decorator(cls: type | None = None, *, repr: bool = True, eq: bool = True, **options: Any) -> Any:
        if cls is None:
            return lambda cls: decorator(cls, repr=repr, eq=eq, **options)
        own = vars(cls).keys()
        made: Any = kind(cls, repr=False, eq=False, getstate_setstate=False, **options)
        if repr and "__repr__" not in own:
            made.__repr__ = _shown
        if eq and "__eq__" not in own:
            made.__eq__, made.__hash__ = _equal, _hashed if is_frozen else None
        made.__attrs_attrs__ = tuple(made.__attrs_attrs__)
        linecache.cache.pop(made.__init__.__code__.co_filename, None)  # one for all methods of a class
        return made

    return decorator


if not TYPE_CHECKING:
    define, frozen = _light(attrs.define, False), _light(attrs.frozen, True)
