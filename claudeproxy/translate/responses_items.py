"""A conversation in Anthropic's terms to the input items of the Responses API (PROTOCOL 4.1, 4.2 column c, 4.9).

What stands between two of the model's turns is rendered as for Chat Completions (see `translate.turns`): results in
the order of the calls, then what the user says. The model's own turn keeps the order of its blocks, because a
reasoning item belongs to the very item that follows it.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from attrs import field

from claudeproxy.model.anthropic import (
    Content,
    Message,
    MessagesRequest,
    RedactedThinkingBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from claudeproxy.model.kinds import define
from claudeproxy.translate.content import ContentReader, Image, Piece, text_of
from claudeproxy.translate.dialects import Dialect
from claudeproxy.translate.ids import original
from claudeproxy.translate.names import LONGEST_NAME, shortened
from claudeproxy.translate.signatures import read
from claudeproxy.translate.turns import (
    ERROR_MARK,
    IMAGE_BELOW,
    NO_ANSWER,
    NO_OUTPUT,
    NO_RESULT,
    THOUGHTS,
    arguments_of,
    holds_thought,
    reminder,
    without_billing,
)
from claudeproxy.wire.json import encode_text

Item = dict[str, Any]

#: The field of `signatures.Reasoning` that holds a reasoning item.
SIGNED = "responses"


def input_items(request: MessagesRequest, dialect: Dialect, reader: ContentReader) -> list[Item]:
    """The whole conversation of ``request``; what gets lost is remembered by ``reader``."""
    conversation = _Conversation(dialect, reader)
    conversation.system(text_of(reader.pieces(map(without_billing, request.system))))
    for is_model, messages in groupby(request.messages, lambda message: message.role == "assistant"):
        if is_model:
            conversation.assistant(tuple(block for message in messages for block in message.content))
        else:
            conversation.between(list(messages))
    conversation.between([])  # a call that ends the conversation has no result either
    conversation.end()
    return conversation.items


def message(role: str, pieces: list[Piece]) -> Item:
    """A message; its content is a text where there are only texts, as in `content.chat_content`."""
    return {"type": "message", "role": role, "content": _content(pieces)}


@define
class _Conversation:
    _dialect: Dialect
    _reader: ContentReader
    items: list[Item] = field(factory=list, init=False)
    #: The calls that still wait for their results: the ids that the client and the backend know them by.
    _calls: list[tuple[str, str]] = field(factory=list, init=False)
    #: What the user's message at the end was made of.
    _said: list[Piece] = field(factory=list, init=False)
    #: The newest item that stands in for a turn of the model's with nothing to show.
    _silent: Item | None = field(default=None, init=False)

    def system(self, text: str) -> None:
        if text:
            self.items.append(message(self._dialect.system_role, [text]))

    def assistant(self, content: Content) -> None:
        """A turn of the model's."""
        turn: list[Item] = []
        for is_text, blocks in groupby(content, lambda block: not isinstance(block, _SPECIAL)):
            if is_text:
                text = text_of(self._reader.pieces(blocks))
                turn += [message("assistant", [text])] if text else []
                continue
            for block in blocks:
                if isinstance(block, ToolUseBlock):
                    turn.append(_call(block))
                    self._calls.append((block.id, turn[-1]["call_id"]))
                elif isinstance(block, ThinkingBlock):
                    turn += self._reasoning(block)
                else:
                    self._reader.lost.append("redacted_thinking")
        while turn and turn[-1]["type"] == "reasoning":  # an item that nothing follows is refused
            turn.pop()
            self._reader.lost.append(THOUGHTS)
        if turn and self.items and self.items[-1] is self._silent:
            self.items.pop()
        self.items += turn
        if not turn and any(item.get("role") != self._dialect.system_role for item in self.items):
            if self.items[-1].get("role") != "assistant":
                self._silent = message("assistant", [NO_ANSWER])
                self.items.append(self._silent)

    def end(self) -> None:
        """After the last turn."""
        if self.items and self.items[-1] is self._silent:
            self.items.pop()

    def between(self, stretch: list[Message]) -> None:
        """All that stands between two of the model's turns."""
        blocks = [block for each in stretch if each.role == "user" for block in each.content]
        pieces = self._results([block for block in blocks if isinstance(block, ToolResultBlock)])
        last = self.items[-1] if self.items else {}
        said = bool(pieces)
        for each in stretch:
            if each.role == "user":
                spoken = self._reader.pieces(b for b in each.content if not isinstance(b, ToolResultBlock))
                pieces += spoken
                said = said or bool(spoken)
                continue
            text = text_of(self._reader.pieces(each.content))
            if text and self._dialect.system_midway == "keep":
                self._user(pieces)
                pieces = []
                self.system(text)
            elif text and not said and isinstance(last.get("output"), str):  # no reason for a message, as in `turns`
                last["output"] += "\n\n" + reminder(text)
            elif text:
                pieces.append(reminder(text))
        self._user(pieces)

    def _user(self, pieces: list[Piece]) -> None:
        """The user's turn, or more of it."""
        if not pieces:
            return
        if self.items and self.items[-1].get("role") == "user":
            self.items.pop()
            pieces = self._said + pieces
        self._said = pieces
        self.items.append(message("user", pieces))

    def _results(self, results: list[ToolResultBlock]) -> list[Piece]:
        """Answers every call; gives what no answer can hold: the results that nobody called for, and images, where
        an answer cannot hold these."""
        rest: list[Piece] = []
        for id, backend_id in self._calls:
            result = next((each for each in results if each.tool_use_id == id), None)
            if result is None:
                self._reader.lost.append("tool_use without result")
                self._answer(backend_id, [NO_RESULT])
                continue
            results.remove(result)
            pieces = self._reader.pieces(result.content)
            shown = [piece for piece in pieces if isinstance(piece, Image)]
            if shown and not self._dialect.result_images:
                pieces = [*(piece for piece in pieces if isinstance(piece, str)), IMAGE_BELOW]
                rest += [f"[image of tool result {backend_id}]", *shown]
            if result.is_error:
                pieces = _marked(pieces)
            self._answer(backend_id, pieces or [NO_OUTPUT])
        self._calls = []
        for orphan in results:
            self._reader.lost.append("tool_result.tool_use_id")
            mark = ERROR_MARK if orphan.is_error else ""
            rest += [mark + "[result of an unknown tool call]", *self._reader.pieces(orphan.content)]
        return rest

    def _answer(self, call_id: str, pieces: list[Piece]) -> None:
        self.items.append({"type": "function_call_output", "call_id": call_id, "output": _content(pieces)})

    def _reasoning(self, block: ThinkingBlock) -> Iterator[Item]:
        """The item that the block was made of. A server that hides its reasoning wants its cipher back, any other
        the text: each refuses what is the other's."""
        reasoning = read(block.signature)
        data = reasoning.data if reasoning is not None and reasoning.field == SIGNED else None
        item: Item = {"type": "reasoning", "id": "", "summary": []} | (data if isinstance(data, dict) else {})
        if not self._dialect.reasoning_echo:
            if item.get("encrypted_content"):
                item.pop("content", None)
                yield item
            elif holds_thought(block, reasoning):
                self._reader.lost.append(THOUGHTS)
            return
        hidden = reasoning.data if reasoning is not None and isinstance(reasoning.data, str) else ""
        text = hidden or block.thinking
        if not item.get("content") and text:
            item["content"] = [{"type": "reasoning_text", "text": text}]
        if item.get("content"):
            yield item | {"encrypted_content": ""}
        elif holds_thought(block, reasoning):
            self._reader.lost.append(THOUGHTS)


#: Blocks of the model's turn that are items of their own, or none.
_SPECIAL = (ToolUseBlock, ThinkingBlock, RedactedThinkingBlock)


def _call(block: ToolUseBlock) -> Item:
    id = original(block.id)
    id = id if len(id) <= LONGEST_NAME else shortened(id)  # only another backend's can be longer
    arguments = encode_text(arguments_of(block))
    return {"type": "function_call", "call_id": id, "name": shortened(block.name), "arguments": arguments}


def _marked(pieces: list[Piece]) -> list[Piece]:
    """With the sign of an error before it."""
    if pieces and isinstance(pieces[0], str):
        return [ERROR_MARK + pieces[0], *pieces[1:]]
    return [ERROR_MARK + NO_OUTPUT, *pieces]


def _content(pieces: list[Piece]) -> str | list[Item]:
    if not any(isinstance(piece, Image) for piece in pieces):
        return text_of(pieces)
    return [
        {"type": "input_image", "image_url": piece.url, "detail": "auto"}
        if isinstance(piece, Image)
        else {"type": "input_text", "text": piece}
        for piece in pieces
    ]
