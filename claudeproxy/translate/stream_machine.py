"""What the stream machines of all dialects share: their frame, not their reading."""

from collections.abc import Callable

from attrs import define, field

from claudeproxy.model.events import Event, Usage
from claudeproxy.model.problems import Problem, bad_gateway
from claudeproxy.translate.composer import Composer, Expected
from claudeproxy.translate.reply import Reply
from claudeproxy.wire.lines import LONGEST_LINE


@define
class StreamMachine:
    """The part of `backends.generation.Machine` that does not depend on what the backend speaks.

    A dialect adds ``receive`` and ``close``, and its own way of counting in `_known`.
    """

    reply: Reply
    _expected: Expected
    _unique: Callable[[], str]
    #: The backend answered a request for a stream with one JSON text (row 72).
    whole_json: bool = False
    _composer: Composer = field(init=False)
    _body: list[bytes] = field(factory=list, init=False)
    _size: int = field(default=0, init=False)
    _usage: Usage | None = field(default=None, init=False)
    _done: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._composer = Composer(self.reply, self._expected, self._unique)

    @property
    def spoken(self) -> bool:
        """Whether the model has said anything yet."""
        return self._composer.pieces > 0

    @property
    def remarks(self) -> list[str]:
        """What was repaired or left out, for the log; never content."""
        return self._composer.remarks

    @property
    def over(self) -> bool:
        """Whether the last event is out."""
        return self.reply.over

    @property
    def heard_out(self) -> bool:
        """Whether the backend said its last word, so that its connection may serve again."""
        return self._done

    @property
    def settled(self) -> bool:
        """Whether the backend named the end."""
        return self._done or self.reply.over

    def begin(self) -> list[Event]:
        """Opens the message before the backend said anything."""
        self.reply.start(self._known())
        return self.reply.take()

    def fail(self, problem: Problem) -> list[Event]:
        """The backend failed otherwise: its connection broke, it fell silent."""
        self._fail(problem)
        return self.reply.take()

    def _known(self) -> Usage:
        """The best counts so far."""
        return Usage(input=self._expected.prompt_tokens)

    def _hold(self, data: bytes) -> list[Event]:
        """Keeps a piece of an answer that can only be read whole."""
        self._body.append(data)
        self._size += len(data)
        if self._size > LONGEST_LINE:
            return self.fail(bad_gateway(f"Backend {self._expected.backend} sent an answer without end."))
        return []

    def _fail_as_cut(self) -> None:
        """The body ended without the dialect's own end (row 50)."""
        where = "in the middle of its answer" if self.spoken else "before it answered"
        self._fail(bad_gateway(f"Backend {self._expected.backend} closed the connection {where}."))

    def _fail(self, problem: Problem) -> None:
        self.reply.fail(problem)
