"""A stream of a server that is compatible with Anthropic's, to the events of an answer as Anthropic would send it
(PROTOCOL 2.1, 4.7, 4.10; the rows that the comments name are those of PROTOCOL 5).

Such servers leave several blocks open until the end, forget to close them, or put a call's arguments into its start.
What leaves here is one block after the other: text and thinking as they come, everything else once it is whole.

A thinking block keeps the signature that its server gave it, also an empty one: the server gets the block back on the
next turn just as the client has it, and reads it or its text. So thoughts are also shown where the client would rather
not see them; there is no place to hide them that the server could read.
"""

from collections.abc import Mapping
from typing import Any

from attrs import field

from claudeproxy.model.kinds import define
from claudeproxy.translate.anthropic_blocks import Block, Waiting
from claudeproxy.translate.arguments import mended
from claudeproxy.translate.failures import is_bare_error, problem_from_error
from claudeproxy.translate.stops import CUTS, Ending, shown_reason
from claudeproxy.translate.stream_machine import StreamMachine
from claudeproxy.translate.tool_calls import ToolCall, index_of
from claudeproxy.translate.usage import from_anthropic
from claudeproxy.wire.json import encode_text
from claudeproxy.wire.shapes import mapping, word

#: How the fields of a delta say what it is; servers agree on them more than on its type.
_TEXT, _THINKING, _SIGNATURE, _INPUT = "text", "thinking", "signature", "partial_json"


@define
class AnthropicStream(StreamMachine):
    """`backends.generation.Machine` for servers that speak as Anthropic's does, or nearly so."""

    #: By the server's own index.
    _blocks: dict[int, Block] = field(factory=dict, init=False)
    _waiting: Waiting = field(factory=Waiting, init=False)
    #: The block whose thoughts are being shown.
    _thinking: Block | None = field(default=None, init=False)
    _counts: dict[str, Any] = field(factory=dict, init=False)
    _reason: str = field(default="", init=False)
    _sequence: str = field(default="", init=False)

    @property
    def settled(self) -> bool:
        """Whether the server named the end, so that a missing message_stop need not be waited for."""
        return bool(self._reason) or self.reply.over

    def _close(self) -> None:
        if self._done or self._reason or self._expected.ends_without_done:
            self._finished()
        else:
            self._fail_as_cut()

    def _last_word_said(self) -> None:  # vLLM's, after all events; others' instead of the last
        self._done = True
        self._finished()

    def _value(self, value: dict[str, Any], name: str) -> None:
        kind = word(value.get("type")) or name
        if kind.endswith("error") or name == "error" or value.get("error") or (not kind and is_bare_error(value)):
            self._done = True
            self._fail(problem_from_error(self._expected.backend, value, 200))
            return
        match kind:
            case "message_start":
                self._count(mapping(value.get("message")))
                self._count(value)
            case "content_block_start":
                self._begin(self._index(value, new=True), mapping(value.get("content_block")))
            case "content_block_delta":
                self._delta(self._index(value), mapping(value.get("delta")))
            case "content_block_stop":
                self._stop(self._index(value))
            case "message_delta":
                self._count(value)
                self._heed_ending(mapping(value.get("delta")))
            case "message_stop":
                self._last_word_said()
            case "message" | "" if "content" in value:  # row 72: the answer as a whole
                self._message(value)

    def _message(self, message: Mapping[str, Any]) -> None:
        self._count(message)
        content = message["content"]
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        for index, block in enumerate(content if isinstance(content, list) else ()):
            self._begin(index, mapping(block))
            self._stop(index)
        if not self.reply.over:
            self._heed_ending(message)
            self._last_word_said()

    # ---- blocks

    def _index(self, event: Mapping[str, Any], new: bool = False) -> int:
        """The block that an event is about; without an index the newest, or one more."""
        index = index_of(event.get("index"))
        if index is None:
            index = max(self._blocks, default=-1) + new
        return index

    def _begin(self, index: int, start: Mapping[str, Any]) -> None:
        self._stop(index)  # an index of its own for every block is asked too much of some
        block = self._blocks[index] = Block(word(start.get("type")), start)
        self._leave_thinking()
        match block.kind:
            case "text" | "":
                self._separate()
                if start.get("citations"):
                    self._leave_out("citations")
                self._say(word(start.get("text")))
            case "thinking":
                self._think(block, word(start.get("thinking")))
                self._sign(block, word(start.get("signature")))
            case _:
                self._release(moved_on=True)
                self._composer.pieces += 1
                self._waiting.add(block)

    def _delta(self, index: int, delta: Mapping[str, Any]) -> None:
        block = self._blocks.get(index)
        if block is None:  # nobody began it
            kind = {_INPUT: "tool_use", _THINKING: "thinking", _SIGNATURE: "thinking"}
            found = next((kind[name] for name in kind if name in delta), "text")
            self._begin(index, {"type": found})
            block = self._blocks[index]
        if block.kind in ("text", "thinking", ""):
            self._think(block, word(delta.get(_THINKING)))
            self._say(word(delta.get(_TEXT)))
            self._sign(block, word(delta.get(_SIGNATURE)))
            if delta.get("citation"):
                self._leave_out("citations")
            return
        piece = delta.get(_INPUT)
        if block.gone:
            if piece:
                self._leave_out("a piece of a call that was whole")
        elif piece is not None and piece != "":
            self._composer.pieces += 1
            block.pieces.append(piece if isinstance(piece, str) else encode_text(piece))  # row 12
        elif "content" in delta:  # the last word on a block of a kind that only newer servers have
            block.start = {**block.start, "content": delta["content"]}

    def _stop(self, index: int) -> None:
        block = self._blocks.get(index)
        if block is None or block.ended:
            return
        block.ended = True
        if block is self._thinking:
            self._leave_thinking()
        self._release(moved_on=False)

    def _say(self, text: str) -> None:
        if not text or self.reply.over:
            return
        self._leave_thinking()
        if not text.isspace():
            self._release(moved_on=True)  # row 20
        self._start()
        self._composer.say(text)
        if self._composer.hit is not None and not self.reply.over:
            self._finished()

    def _separate(self) -> None:
        """The server's text blocks stay as many as they are."""
        if self.reply.kinds[-1:] == ["text"] and not self.reply.over:
            self.reply.close_block()

    # ---- thinking

    def _think(self, block: Block, thought: str) -> None:
        if thought and self._shows_thinking(block):
            self._composer.pieces += 1
            self.reply.thinking(thought.replace("\0", "\ufffd"))  # row 63

    def _sign(self, block: Block, signature: str) -> None:
        """The signature leaves with the block's end; a block may be nothing but its signature."""
        if not signature:
            return
        if block is not self._thinking and block.gone:
            self._leave_out("a signature that came after its block")
        elif self._shows_thinking(block):
            self._composer.pieces += 1
            self.reply.open_thinking()
            block.signature = signature

    def _shows_thinking(self, block: Block) -> bool:
        if self._expected.silent or self._composer.done:
            return False
        if block is not self._thinking:
            self._leave_thinking()
            self._release(moved_on=True)
            self._start()
            self._thinking = block
        return True

    def _leave_thinking(self) -> None:
        block, self._thinking = self._thinking, None
        if block is not None and not self.reply.over:
            block.gone = True
            self.reply.sign(block.signature)
            block.signature = ""  # should the block go on after another, this was not the signature of that part

    # ---- what must be whole

    def _release(self, moved_on: bool) -> None:
        """Shows what is whole."""
        if self.reply.over:
            return
        for block in self._waiting.ready(moved_on):
            self._show(block)
            if self.reply.over:
                return

    def _show(self, block: Block) -> None:
        block.gone = True
        if self._expected.silent or self._composer.done:
            return
        self._leave_thinking()
        start = block.start
        arguments = mended(block.arguments, closing=True)
        id, name = word(start.get("id")), block.name
        self._start()
        match block.kind:
            case "tool_use":
                self._composer.call(ToolCall(id, name, arguments))
            case "server_tool_use":
                self.reply.server_call(id or f"srvtoolu_{self._unique()}", name, arguments)
            case _:
                self.reply.whole_block(block.whole(arguments))

    # ---- counts and ends

    def _count(self, told: Mapping[str, Any]) -> None:
        """Servers count in message_start, in message_delta, or a part here and a part there: a number that is told
        later is the better one, unless it is 0, which some write for what they do not know."""
        usage = mapping(told.get("usage"))
        news = {name: count for name, count in usage.items() if isinstance(count, dict) or _is_number(count)}
        if news:
            self._counts |= news
            self._usage = from_anthropic(self._counts)

    def _heed_ending(self, delta: Mapping[str, Any]) -> None:
        """How the answer ends; it may still go on (row 48)."""
        self._reason = word(delta.get("stop_reason")) or self._reason
        self._sequence = word(delta.get("stop_sequence")) or self._sequence

    def _finished(self) -> None:
        if self.reply.over:
            return
        ending = self._heed(self._reason)
        if self.reply.over:
            return
        dropped: list[str] = []
        if self._composer.hit is None:
            shown, dropped = self._waiting.rest(cut=ending in CUTS)
            for block in shown:
                self._show(block)
        self._leave_thinking()
        stopped = ending is Ending.WHOLE and self._names_sequence
        if self._composer.done or self._expected.silent or (ending is not None and not stopped):
            self._conclude(ending, dropped)
            return
        if ending is None:
            self.remarks.append(f"the answer ended for a reason that is not known here: {shown_reason(self._reason)}")
        self._composer.close()
        reason, sequence = ("stop_sequence", self._sequence) if stopped else (self._reason, None)
        self._end(reason, self._known(), sequence)

    @property
    def _names_sequence(self) -> bool:
        """Whether the answer ended at a stop sequence. Ollama says so of any end, but then names none; llama.cpp names
        it, says end_turn, and might name one of its template's own."""
        if self._reason == "stop_sequence":
            return bool(self._sequence)
        return self._sequence in self._expected.stop_sequences and "tool_use" not in self.reply.kinds

    def _leave_out(self, what: str) -> None:
        remark = f"left out of the answer: {what}"
        if remark not in self.remarks:
            self.remarks.append(remark)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0
