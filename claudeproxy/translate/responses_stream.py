"""One stream of the Responses API to the events of an answer (PROTOCOL 4.3, 4.9).

An answer is a list of items: reasoning, messages, calls. Each is announced, streamed and ended. Servers differ in how
they name them (llama.cpp sends no ``output_index``, others change an item's id between two events) and in what they
leave out (an item that is only ended, or only in the last event): so what the deltas have not brought is taken from
the item's end, and what that has not brought from the response's. The rows in comments are those of PROTOCOL 5.
"""

from collections.abc import Mapping
from typing import Any

from attrs import define, evolve, field

from claudeproxy.model.events import Event, Usage
from claudeproxy.model.problems import LONGEST_DETAIL, bad_gateway
from claudeproxy.translate.failures import problem_from_error
from claudeproxy.translate.responses_items import SIGNED
from claudeproxy.translate.signatures import Reasoning
from claudeproxy.translate.stream_machine import StreamMachine
from claudeproxy.translate.tool_calls import ToolCall, mended
from claudeproxy.translate.usage import from_progress, from_responses, from_timings
from claudeproxy.wire.json import NotJSON, decode, encode_text
from claudeproxy.wire.lines import LineTooLong
from claudeproxy.wire.sse import EventReader, ServerSentEvent

#: The errors of a response, by code, that are not the server's fault, and the statuses that they should have had.
#: Those that name an image are faults of the request, too.
_STATUSES = {
    "rate_limit_exceeded": 429,
    "slow_down": 503,
    "server_is_overloaded": 503,
    "insufficient_quota": 402,
    "invalid_prompt": 400,
    "invalid_request_error": 400,
    "data_residency_mismatch": 400,
    "bio_policy": 400,
    "cyber_policy": 400,
    "misalignment_policy_violation": 400,
}
_ENDS = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")


@define(eq=False)
class _Item:
    """An item of the answer as far as it has come."""

    kind: str = ""
    call_id: str = ""
    name: str = ""
    arguments: list[str] = field(factory=list)
    #: Which of its texts has come in pieces: of reasoning, the first kind wins (row 32).
    heard: str = ""
    #: The part of its summary, or of its text, that came last.
    part: Any = None
    ended: bool = False


@define
class ResponsesStream(StreamMachine):
    """`backends.generation.Machine` for the Responses API."""

    _reader: EventReader = field(factory=EventReader, init=False)
    _items: dict[Any, _Item] = field(factory=dict, init=False)
    #: A call whose arguments are not whole, though it ended: whether they were cut shows what follows.
    _doubtful: ToolCall | None = field(default=None, init=False)
    #: What is being thought, as far as it was shown.
    _thought: list[str] = field(factory=list, init=False)
    _measured: Usage | None = field(default=None, init=False)
    _refused: bool = field(default=False, init=False)

    def receive(self, data: bytes) -> list[Event]:
        """The events that follow from the next bytes of the body."""
        if self.reply.over:
            return []  # some servers go on after the end
        if self.whole_json:
            return self._hold(data)
        try:
            events = self._reader.receive(data)
        except LineTooLong as fault:
            return self.fail(bad_gateway(f"Backend {self._expected.backend} sent {fault}."))
        for event in events:
            self._frame(event)
        return self.reply.take()

    def close(self) -> list[Event]:
        """The events that follow from the body's end: without the response's own end it is a cut (row 50)."""
        if self.reply.over:
            return []
        if self.whole_json:
            self._whole()
        else:
            for event in self._reader.close():
                self._frame(event)
        if not self.reply.over:
            if self._expected.ends_without_done and self.spoken:
                self._end("completed", {})
            else:
                self._fail_as_cut()
        return self.reply.take()

    # ---- frames

    def _frame(self, frame: ServerSentEvent) -> None:
        data = frame.data.strip()
        if self.reply.over or not data or data == b"[DONE]":  # said by servers that know it from chats
            return
        try:
            event = decode(data)
        except NotJSON:
            shown = data[:200].decode("utf-8", "replace")
            self._fail(bad_gateway(f"Backend {self._expected.backend} sent what is no JSON: {shown}"))
            return
        if isinstance(event, dict):
            self._event(_word(event.get("type")) or frame.name, event)

    def _whole(self) -> None:
        body = b"".join(self._body).strip()
        try:
            response = decode(body)
        except NotJSON:
            response = body[:LONGEST_DETAIL].decode("utf-8", "replace")
        if not isinstance(response, dict) or (response.get("error") and "output" not in response):
            self._blame(response)
            return
        self._last_word(_word(response.get("status")) or "completed", response)

    def _event(self, kind: str, event: Mapping[str, Any]) -> None:
        self._measure(event)
        if kind == "error" or (event.get("error") and not kind.startswith("response.")):
            self._blame(event.get("error") or event)
        elif kind in _ENDS:
            response = _object(event.get("response"))
            self._last_word(_word(response.get("status")) or kind.removeprefix("response."), response)
        elif kind in ("response.output_item.added", "response.output_item.done"):
            content = _object(event.get("item"))
            item = self._item(event, content)
            self._name(item, content)
            if kind.endswith("done"):
                self._item_done(item, content)
        else:
            said = event.get("delta")
            if isinstance(said, str):
                self._delta(kind, event, said)
            elif kind == "response.function_call_arguments.done":
                item = self._item(event)
                self._name(item, event)
                if not item.arguments and isinstance(event.get("arguments"), str):
                    item.arguments.append(event["arguments"])

    def _delta(self, kind: str, event: Mapping[str, Any], said: str) -> None:
        item = self._item(event)
        match kind:
            case "response.output_text.delta":
                item.heard = "text"
                self._say(said)
            case "response.refusal.delta":
                item.heard, self._refused = "text", True
                self._say(said)
            case "response.reasoning_summary_text.delta":
                self._think(item, "summary", event.get("summary_index"), said)
            case "response.reasoning_text.delta":
                self._think(item, "content", event.get("content_index"), said)
            case "response.function_call_arguments.delta":
                self._composer.pieces += 1
                item.arguments.append(said)

    # ---- items

    def _item(self, event: Mapping[str, Any], content: Mapping[str, Any] | None = None) -> _Item:
        """The item that an event is about. Its place is surer than its id, where both are told."""
        key = event.get("output_index")
        if not isinstance(key, int):
            key = _word(event.get("item_id")) or _word((content or {}).get("id"))
        return self._items.setdefault(key, _Item())

    def _name(self, item: _Item, content: Mapping[str, Any]) -> None:
        item.kind = item.kind or _word(content.get("type"))
        item.call_id = item.call_id or _word(content.get("call_id"))
        item.name = item.name or _word(content.get("name"))

    def _item_done(self, item: _Item, content: Mapping[str, Any]) -> None:
        if item.ended or self.reply.over:
            return
        item.ended = True
        match content.get("type"):
            case "reasoning":
                self._reasoned(item, content)
            case "message" if not (item.heard or self._anonymous()):
                for part in _objects(content.get("content")):
                    refusal = _word(part.get("refusal"))
                    self._refused = self._refused or bool(refusal)
                    self._say(refusal or _word(part.get("text")))
            case "function_call":
                self._called(item, content.get("arguments"))

    def _think(self, item: _Item, kind: str, part: Any, said: str) -> None:
        if item.heard not in ("", kind):
            return
        if item.heard and part != item.part:
            said = "\n\n" + said
        item.heard, item.part = kind, part
        self._settle_doubt()
        self.reply.start(self._known())
        self._thought.append(said)
        self._composer.think(said, SIGNED)

    def _reasoned(self, item: _Item, content: Mapping[str, Any]) -> None:
        """The end of a reasoning item: what goes back with the next turn is in the signature."""
        summary = [each for each in _objects(content.get("summary")) if _word(each.get("text"))]
        texts = [each for each in _objects(content.get("content")) if _word(each.get("text"))]
        if not item.heard:
            kind, parts = ("summary", summary) if summary else ("content", texts)
            for number, part in enumerate(parts):
                self._think(item, kind, number, part["text"])
        cipher = _word(content.get("encrypted_content"))
        if not (cipher or item.heard):
            return
        data: dict[str, Any] = {"id": _word(content.get("id")), "summary": summary}
        if cipher:
            data["encrypted_content"] = cipher
        shown = not self._expected.hides_thinking and "".join(self._thought)
        if texts and "".join(each["text"] for each in texts) != shown:  # what the block shows need not be said twice
            data["content"] = texts
        self._settle_doubt()
        self.reply.start(self._known())
        self._composer.conclude_thinking(Reasoning(SIGNED, data))
        self._thought.clear()

    def _called(self, item: _Item, arguments: Any) -> None:
        """The end of a call; its end tells the arguments once more, whole."""
        if isinstance(arguments, dict):
            arguments = encode_text(arguments)  # row 12
        text = arguments if isinstance(arguments, str) and arguments else "".join(item.arguments)
        self._settle_doubt()
        self._composer.pieces += 1
        call = ToolCall(item.call_id, item.name, text)
        if _is_whole(text):
            self._call(call)
        else:
            self._doubtful = call

    def _call(self, call: ToolCall) -> None:
        self.reply.start(self._known())
        self._composer.call(evolve(call, arguments=mended(call.arguments, closing=True)))

    def _settle_doubt(self) -> None:
        """The model went on: what it said before was not cut."""
        call, self._doubtful = self._doubtful, None
        if call is not None:
            self._call(call)

    def _say(self, text: str) -> None:
        if not text or self.reply.over:
            return
        self.reply.start(self._known())
        if not text.isspace():
            self._settle_doubt()
        self._composer.say(text)
        if self._composer.hit is not None:
            self._finish()

    # ---- counts

    def _measure(self, event: Mapping[str, Any]) -> None:
        """llama.cpp's own fields, at any event."""
        if isinstance(event.get("prompt_progress"), dict):
            self._measured = from_progress(event["prompt_progress"])
            self.reply.start(self._measured)  # the prompt was accepted and counted
        elif isinstance(event.get("timings"), dict):
            self._measured = from_timings(event["timings"])

    def _known(self) -> Usage:
        """The best counts so far; a prompt is never told to be 0 tokens long (row 45)."""
        usage = self._usage or self._measured or Usage()
        if not usage.prompt:
            usage = evolve(usage, input=self._expected.prompt_tokens)
        return usage if usage.output else evolve(usage, output=self._composer.pieces)

    # ---- ends

    def _last_word(self, status: str, response: Mapping[str, Any]) -> None:
        self._done = True
        usage = response.get("usage")
        if isinstance(usage, dict) and (usage.get("input_tokens") or usage.get("output_tokens")):
            self._usage = from_responses(usage)
        if status in ("failed", "cancelled"):
            self._blame(response.get("error") or f"the response was {status}")
        else:
            self._end(status, response)

    def _end(self, status: str, response: Mapping[str, Any]) -> None:
        for place, content in enumerate(_objects(response.get("output"))):
            known = [each for each in self._items if each in (place, content.get("id"))]
            item = self._items[known[0]] if known else _Item()
            if known or not self._came(content):
                self._name(item, content)
                self._item_done(item, content)
        reason = _word(_object(response.get("incomplete_details")).get("reason"))
        self._refused = self._refused or reason == "content_filter"
        output = self._known().output
        cut = status == "incomplete" or 0 < self._expected.limit <= output  # llama.cpp never says that it was cut
        for item in list(self._items.values()):
            if item.kind == "function_call" and not item.ended:  # it began, and nobody ended it
                item.ended = True
                self._called(item, None)
        self._finish(cut)

    def _came(self, content: Mapping[str, Any]) -> bool:
        """Whether items of this kind have come: the same ones, under other names."""
        ended = (item for item in self._items.values() if item.ended)
        return any(item.kind == content.get("type") for item in ended)

    def _anonymous(self) -> bool:
        """Whether text came for items that were never announced: it is that of the items under their right names."""
        return any(item.heard == "text" and not item.kind for item in self._items.values())

    def _finish(self, cut: bool = False) -> None:
        if self.reply.over:
            return
        cut_calls: tuple[str, ...] = ()
        if cut and self._doubtful is not None:  # row 15
            cut_calls, self._doubtful = (self._doubtful.name,), None
        if self._composer.hit is None:
            self._settle_doubt()
        self.reply.start(self._known())
        self._composer.close(cut_calls)
        usage = self._known()
        if self._composer.hit is not None:
            self.reply.end("stop_sequence", usage, self._composer.hit)
        elif self._expected.silent:
            self.reply.end("max_tokens", evolve(usage, output=0, thinking=None))
        elif self._refused:
            self.reply.end("refusal", usage, refusal=True)
        elif cut:
            full = 0 < self._expected.window <= usage.prompt + usage.output
            self.reply.end("model_context_window_exceeded" if full else "max_tokens", usage)
        elif "tool_use" in self.reply.kinds:
            self.reply.end("tool_use", usage)
        elif self.reply.kinds:
            self.reply.end("end_turn", usage)
        else:  # row 39: never a success without an answer
            self._fail(bad_gateway(f"Backend {self._expected.backend} gave an empty answer."))

    def _blame(self, error: Any) -> None:
        self._done = True
        code = _word(_object(error).get("code")) or _word(_object(error).get("type"))
        status = _STATUSES.get(code, 400 if "image" in code else 200)
        self._fail(problem_from_error(self._expected.backend, error, status))


def _is_whole(arguments: str) -> bool:
    try:
        return isinstance(decode(arguments.encode("utf-8", "surrogatepass")), dict)
    except NotJSON:
        return False


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
