"""Faults as a log may tell them: where, not what. An exception's words may hold a piece of a conversation."""

from twisted.python.failure import Failure

#: Their words are Python's own, and names from the code.
_HARMLESS = (
    AttributeError,
    NameError,
    ImportError,
    RecursionError,
    ZeroDivisionError,
    NotImplementedError,
    MemoryError,
)


class Unsaid(Exception):
    """Stands for an exception's words."""

    def __init__(self) -> None:
        super().__init__("(its words are left out, as they may hold a piece of a conversation)")


def discreet(failure: Failure) -> Failure:
    """The same type and the same places in the code, with nothing that the exception says, also not of what it came
    from."""
    fault: BaseException = failure.value  # type: ignore[assignment]  # it is one of an exception
    if type(fault) in _HARMLESS and not (fault.__cause__ or fault.__context__):
        return failure
    return Failure(Unsaid(), failure.type, failure.getTracebackObject())
