"""One stream of the Responses API to the events of an answer (PROTOCOL 4.3, 4.9).

An answer is a list of items: reasoning, messages, calls. Each is announced, streamed and ended. Servers differ in how
they name them (llama.cpp sends no ``output_index``, others change an item's id between two events) and in what they
leave out (an item that is only ended, or only in the last event): so what the deltas have not brought is taken from
the item's end, and what that has not brought from the response's. The rows in comments are those of PROTOCOL 5.
"""

from collections.abc import Mapping
from typing import Any

from attrs import evolve, field

from claudeproxy.model.kinds import define
from claudeproxy.translate.arguments import mended
from claudeproxy.translate.failures import is_bare_error, problem_from_error
from claudeproxy.translate.responses_items import SIGNED
from claudeproxy.translate.responses_progress import Item, Items
from claudeproxy.translate.signatures import Reasoning
from claudeproxy.translate.stops import CUTS, Ending, ending_of
from claudeproxy.translate.stream_machine import StreamMachine
from claudeproxy.translate.tool_calls import ToolCall
from claudeproxy.translate.usage import from_progress, from_responses, from_timings
from claudeproxy.wire.json import NotJSON, decode, encode_text
from claudeproxy.wire.shapes import mapping, objects, word

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


@define
class ResponsesStream(StreamMachine):
    """`backends.generation.Machine` for the Responses API."""

    _items: Items = field(factory=Items, init=False)
    #: A call whose arguments are not whole, though it ended: whether they were cut shows what follows.
    _doubtful: ToolCall | None = field(default=None, init=False)
    #: What is being thought, as far as it was shown.
    _thought: list[str] = field(factory=list, init=False)
    _refused: bool = field(default=False, init=False)

    def _close(self) -> None:
        if self._expected.ends_without_done and self.spoken:
            self._complete("completed", {})
        else:
            self._fail_as_cut()

    def _value(self, value: dict[str, Any], name: str) -> None:
        kind = word(value.get("type")) or name
        if kind:
            self._notice(kind, value)
        elif "output" in value or value.get("object") == "response":  # row 72: the whole response
            self._last_word(word(value.get("status")) or "completed", value)
        elif value.get("error") or is_bare_error(value):
            self._blame(value.get("error") or value)
        else:
            self._measure(value)

    def _notice(self, kind: str, event: Mapping[str, Any]) -> None:
        self._measure(event)
        if kind == "error" or (event.get("error") and not kind.startswith("response.")):
            self._blame(event.get("error") or event)
        elif kind in _ENDS:
            response = mapping(event.get("response"))
            self._last_word(word(response.get("status")) or kind.removeprefix("response."), response)
        elif kind in ("response.output_item.added", "response.output_item.done"):
            content = mapping(event.get("item"))
            item = self._items.of(event, content)
            item.learn(content)
            if kind.endswith("done"):
                self._item_done(item, content)
        else:
            said = event.get("delta")
            if isinstance(said, str):
                self._delta(kind, event, said)
            elif kind == "response.function_call_arguments.done":
                item = self._items.of(event)
                item.learn(event)
                if not item.arguments and isinstance(event.get("arguments"), str):
                    item.arguments.append(event["arguments"])

    def _delta(self, kind: str, event: Mapping[str, Any], said: str) -> None:
        item = self._items.of(event)
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

    def _item_done(self, item: Item, content: Mapping[str, Any]) -> None:
        if item.ended or self.reply.over:
            return
        item.ended = True
        match content.get("type"):
            case "reasoning":
                self._reasoned(item, content)
            case "message" if not (item.heard or self._items.has_anonymous_text):
                for part in objects(content.get("content")):
                    refusal = word(part.get("refusal"))
                    self._refused = self._refused or bool(refusal)
                    self._say(refusal or word(part.get("text")))
            case "function_call":
                self._called(item, content.get("arguments"))

    def _think(self, item: Item, kind: str, part: Any, said: str) -> None:
        if item.heard not in ("", kind):
            return
        if item.heard and part != item.part:
            said = "\n\n" + said
        item.heard, item.part = kind, part
        self._settle_doubt()
        self._start()
        self._thought.append(said)
        self._composer.think(said, SIGNED)

    def _reasoned(self, item: Item, content: Mapping[str, Any]) -> None:
        """The end of a reasoning item: what goes back with the next turn is in the signature."""
        summary = [each for each in objects(content.get("summary")) if word(each.get("text"))]
        texts = [each for each in objects(content.get("content")) if word(each.get("text"))]
        if not item.heard:
            kind, parts = ("summary", summary) if summary else ("content", texts)
            for number, part in enumerate(parts):
                self._think(item, kind, number, part["text"])
        cipher = word(content.get("encrypted_content"))
        if not (cipher or item.heard):
            return
        data: dict[str, Any] = {"id": word(content.get("id")), "summary": summary}
        if cipher:
            data["encrypted_content"] = cipher
        shown = not self._expected.hides_thinking and "".join(self._thought)
        if texts and "".join(each["text"] for each in texts) != shown:  # what the block shows need not be said twice
            data["content"] = texts
        self._settle_doubt()
        self._start()
        self._composer.conclude_thinking(Reasoning(SIGNED, data))
        self._thought.clear()

    def _called(self, item: Item, arguments: Any) -> None:
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
        self._start()
        self._composer.call(evolve(call, arguments=mended(call.arguments, closing=True)))

    def _settle_doubt(self) -> None:
        """The model went on: what it said before was not cut."""
        call, self._doubtful = self._doubtful, None
        if call is not None:
            self._call(call)

    def _say(self, text: str) -> None:
        if not text or self.reply.over:
            return
        self._start()
        if not text.isspace():
            self._settle_doubt()
        self._composer.say(text)
        if self._composer.hit is not None:
            self._finished()

    # ---- counts

    def _measure(self, event: Mapping[str, Any]) -> None:
        """llama.cpp's own fields, at any event."""
        if isinstance(event.get("prompt_progress"), dict):
            self._measured = from_progress(event["prompt_progress"])
            self.reply.start(self._measured)  # the prompt was accepted and counted
        elif isinstance(event.get("timings"), dict):
            self._measured = from_timings(event["timings"])

    # ---- ends

    def _last_word(self, status: str, response: Mapping[str, Any]) -> None:
        self._done = True
        usage = response.get("usage")
        if isinstance(usage, dict) and (usage.get("input_tokens") or usage.get("output_tokens")):
            self._usage = from_responses(usage)
        if status in ("failed", "cancelled"):
            self._blame(response.get("error") or f"the response was {status}")
        else:
            self._complete(status, response)

    def _complete(self, status: str, response: Mapping[str, Any]) -> None:
        for place, content in enumerate(objects(response.get("output"))):
            item = self._items.at_the_end(place, content)
            if item is not None:
                item.learn(content)
                self._item_done(item, content)
        ending = self._ending(status, response)
        for item in self._items.unended_calls():
            self._called(item, None)
        self._finished(ending)

    def _ending(self, status: str, response: Mapping[str, Any]) -> Ending | None:
        reason = word(mapping(response.get("incomplete_details")).get("reason"))
        named = ending_of(reason) if reason else None
        if named is Ending.REFUSED:
            return named
        cut = status == "incomplete" or 0 < self._expected.limit <= self._known().output  # llama.cpp never says it
        return (named if named is Ending.WINDOW else Ending.LENGTH) if cut else Ending.WHOLE

    def _finished(self, ending: Ending | None = Ending.WHOLE) -> None:
        if self.reply.over:
            return
        cut_calls: tuple[str, ...] = ()
        if ending in CUTS and self._doubtful is not None:  # row 15
            cut_calls, self._doubtful = (self._doubtful.name,), None
        if self._composer.hit is None:
            self._settle_doubt()
        self._conclude(Ending.REFUSED if self._refused else ending, cut_calls)

    def _blame(self, error: Any) -> None:
        self._done = True
        code = word(mapping(error).get("code")) or word(mapping(error).get("type"))
        status = _STATUSES.get(code, 400 if "image" in code else 200)
        self._fail(problem_from_error(self._expected.backend, error, status))


def _is_whole(arguments: str) -> bool:
    try:
        return isinstance(decode(arguments.encode("utf-8", "surrogatepass")), dict)
    except NotJSON:
        return False
