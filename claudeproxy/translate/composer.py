"""What a model says, in whatever dialect, to the blocks of a reply: the part that all stream machines share."""

from collections.abc import Callable, Iterable
from typing import Any

from attrs import field

from claudeproxy.model.events import Piece, ThinkingDelta
from claudeproxy.model.kinds import define
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.ids import kept_or_minted
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.signatures import Reasoning, sign
from claudeproxy.translate.stops import StopWatch
from claudeproxy.translate.think_tags import ThinkTags
from claudeproxy.translate.tool_calls import ToolCall


@define
class Composer:
    """Takes thoughts, text and calls in the order in which they come, and makes blocks of them.

    ``unique`` gives letters and digits that were never given before, for ids.
    """

    reply: Reply
    _expected: Expected
    _unique: Callable[[], str]
    #: How many pieces the model has said: an estimate of its tokens, where nobody counts them.
    pieces: int = field(default=0, init=False)
    #: What was repaired or left out, for the log; never content.
    remarks: list[str] = field(factory=list, init=False)
    _stops: StopWatch = field(init=False)
    _tags: ThinkTags | None = field(init=False)
    #: What is asked for each piece: that nothing is shown, and that there are stop sequences to watch for.
    _silent: bool = field(init=False)
    watches: bool = field(init=False)
    #: The ids of all calls, from the first one of this answer on.
    _used: set[str] | None = field(default=None, init=False)
    _calls: int = field(default=0, init=False)
    _has_said: bool = field(default=False, init=False)
    _blank: str = field(default="", init=False)
    _begun: str = field(init=False)
    _repeated: str = field(default="", init=False)
    # The open thinking block's.
    _field: str = field(default="", init=False)
    _hidden: list[str] = field(factory=list, init=False)
    _details: list[dict[str, Any]] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        expected = self._expected
        self._stops = StopWatch(expected.stop_sequences)
        self._silent, self.watches = expected.silent, bool(expected.stop_sequences)
        self._tags = ThinkTags(expected.starts_thinking) if expected.think_tags or expected.starts_thinking else None
        self._begun = expected.begun

    @property
    def hit(self) -> str | None:
        """The stop sequence that ended the answer."""
        return self._stops.hit

    @property
    def done(self) -> bool:
        """Whether nothing that comes now can be shown any more."""
        return self.hit is not None or self.reply.over

    def is_open(self, kind: type[Piece]) -> bool:
        """Whether all that comes of a kind of which a piece was shown last will be shown as it is, in its block."""
        if kind is ThinkingDelta:
            return not (self._silent or self._expected.hides_thinking)
        return not (self._silent or self.watches or self._begun or self._tags is not None)

    def think(self, thought: str, field: str, details: Iterable[Any] = ()) -> None:
        """More of the model's thinking: ``field`` is where it was found, and where it goes on the next turn.

        ``details`` are OpenRouter's structured twin of the text (rows 32, 33).
        """
        self.pieces += 1
        entries = [each for each in details if isinstance(each, dict)] if details else ()
        if self._silent or self.done or not (thought or entries):
            return
        self._begin_thinking(field)
        for position, entry in enumerate(entries):
            self._add_detail(entry, first=position == 0)
        if not thought:
            return
        thought = _clean(thought) if "\0" in thought else thought
        if self._expected.hides_thinking:
            self._hidden.append(thought)
        else:
            self.reply.thinking(thought)

    def conclude_thinking(self, reasoning: Reasoning) -> None:
        """Ends the thinking, shown or not, with what its backend wants back on the next turn."""
        if self._expected.silent or self.done:
            return
        self.reply.open_thinking()
        self.reply.sign(sign(reasoning))
        self._field, self._hidden, self._details = "", [], []

    def say(self, text: str) -> None:
        """More of the answer's text."""
        self.pieces += 1
        if self._silent or (self.watches and self.hit is not None) or self.reply.over:
            return
        self._has_said = True
        text = _clean(text) if "\0" in text else text
        if self._begun:
            text = self._without_prefill(text)
        if self._tags is None:
            if self.watches or not text or not self.reply.more_text(text):
                self._watch(text)
            return
        thought, text = self._tags.receive(text)
        if self._tags.settled:
            self._tags = None
        if thought:
            self._think_in_tags(thought)
        self._watch(text)

    def call(self, call: ToolCall) -> None:
        """A whole call."""
        self.pieces += 1
        if self._expected.silent or self.done:
            return
        self._flush()
        name, arguments = _clean(call.name), _clean(call.arguments)
        if self._expected.forbids_calls or not self._expected.names or not name:
            why = "the caller wanted none" if self._expected.forbids_calls else "it cannot be one"
            self.remarks.append(f"a tool call was left as text: {why}")
            if arguments:
                self._show(f"{self._expected.names.restore(name)} {arguments}".lstrip())
            return
        if self._expected.one_call and self._calls:
            self.remarks.append("a second tool call was dropped: only one was allowed")
            return
        self._calls += 1
        self._sign()
        if self._used is None:
            self._used = set(self._expected.used_ids)
        id = kept_or_minted(call.id, self._used, self._unique)
        self.reply.tool_call(id, self._expected.names.restore(name), arguments)

    def close(self, cut_calls: Iterable[str] = ()) -> None:
        """Nothing more comes: shows what was held back, signs what is open.

        ``cut_calls`` are the names of calls that the output limit cut. If there is nothing but them, a sentence tells
        of the first: without one Claude Code repeats the very same request until it gives up; with one it lets the
        model work in smaller pieces (measured with 2.1.330).
        """
        if not self.done and not self._expected.silent:
            rest, self._repeated = self._repeated, ""
            if rest != self._begun:  # it only began like the prefill
                self._watch(rest)
            self._flush()
            self._tell_of(cut_calls)
            if self._has_said and not any(self.reply.kinds):
                # Blank, or no more than the prefill: an answer all the same, which no repetition would change.
                self.reply.text(self._blank)
        self._sign()

    def _tell_of(self, cut_calls: Iterable[str]) -> None:
        for name in cut_calls:
            called = self._expected.names.restore(name) if name else "a tool"
            self.remarks.append("a tool call was cut off at the output limit and dropped")
            if not {"text", "tool_use"}.intersection(self.reply.kinds):
                self._show(f"[The call of {called} was cut off at the output limit and was not made.]")

    def _without_prefill(self, text: str) -> str:
        """Some servers repeat the answer's beginning that the client wrote (row 60)."""
        self._repeated += text
        if self._begun.startswith(self._repeated):
            return ""  # as far as can be seen, a repetition
        text = self._repeated
        begun, self._begun, self._repeated = self._begun, "", ""
        return text.removeprefix(begun)

    def _flush(self) -> None:
        """Decides about all that was held back."""
        if self._tags is not None:
            thought, text = self._tags.close()
            if thought:
                self._think_in_tags(thought)
            self._watch(text)
        rest = self._stops.close()
        if rest:
            self._show(rest)

    def _watch(self, text: str) -> None:
        if text and self.watches:
            text = self._stops.receive(text)
        if text:
            self._show(text)

    def _show(self, text: str) -> None:
        if self.reply.kinds and self.reply.kinds[-1] == "text":
            self.reply.text(text)
            return
        # Blank text is held until more comes: between other blocks it is an artefact of templates (row 40).
        text = self._blank + text
        if text.isspace():
            self._blank = text
            return
        self._blank = ""
        self._sign()
        self.reply.text(text.lstrip("\n") if any(self.reply.kinds) else text)

    def _think_in_tags(self, thought: str) -> None:
        self.think(thought, "content")

    def _begin_thinking(self, field: str) -> None:
        self._field = self._field or field
        self.reply.open_thinking()

    def _add_detail(self, detail: dict[str, Any], first: bool) -> None:
        """What goes back must be whole and otherwise as it came (PROTOCOL 4.6): only the pieces in which an entry's
        text streams are joined. Entries of one list are never pieces of each other; ciphers come whole."""
        last = self._details[-1] if self._details else {}
        same = first and all(last.get(key) == detail.get(key) for key in ("type", "index", "id") if detail.get(key))
        word = {"reasoning.text": "text", "reasoning.summary": "summary"}.get(str(detail.get("type")))
        if not (last and same and word) or last.get("signature"):
            self._details.append(dict(detail))
            return
        said = [each for each in (last.get(word), detail.get(word)) if isinstance(each, str)]
        last.update((key, value) for key, value in detail.items() if value is not None)
        if said:
            last[word] = "".join(said)

    def _sign(self) -> None:
        """Ends an open thinking block; its signature carries what the backend needs back."""
        if self._field:
            data = self._details or "".join(self._hidden) or None
            self.reply.sign(sign(Reasoning("reasoning_details" if self._details else self._field, data)))
        self._field, self._hidden, self._details = "", [], []


def _clean(text: str) -> str:
    """Without NUL, which clients and files cannot bear (row 63)."""
    return text.replace("\0", "\ufffd") if "\0" in text else text
