"""A conversation in Anthropic's terms to the messages of Chat Completions (PROTOCOL 4.1).

Theory. Chat servers want: system first; every ``tool`` message right after the assistant message whose call it
answers; one answer for each call; user and assistant in turns. Anthropic's clients send user turns that mix results,
text and images in any order, results in order of completion, system messages anywhere. So the conversation is cut at
its assistant turns, and what stands between two of them is rendered as a whole:

    the results, in the order of the calls      -> ``tool`` messages, "[no result]" where one is missing
    images and pages that results hold          -> one user message after all of them, each under its label
    the rest: text, images, documents           -> the same user message
    system messages, by the cell ``system_midway``
        keep -> messages of their own, after the results
        fold -> a reminder in the user message; with no user message, at the end of the last ``tool`` message

What was rendered once is rendered the same in every later request, so that the backend's prefix cache holds: nothing
looks further ahead than to the end of its own stretch.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from attrs import define, field

from claudeproxy.model.anthropic import (
    Block,
    Content,
    Message,
    MessagesRequest,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from claudeproxy.translate.content import ContentReader, Image, Piece, chat_content, text_of
from claudeproxy.translate.dialects import Dialect
from claudeproxy.translate.ids import original
from claudeproxy.translate.names import shortened
from claudeproxy.translate.signatures import read
from claudeproxy.wire.json import encode_text

#: Claude Code's first system block changes from conversation to conversation and says nothing to a model (7.5).
BILLING = "x-anthropic-billing-header:"
NO_RESULT = "[no result]"
NO_OUTPUT = "(no output)"
ERROR_MARK = "[tool error] "

ChatMessage = dict[str, Any]


def reminder(text: str) -> str:
    """How a system message of mid-conversation looks inside another turn; models know the form from Claude Code."""
    return f"<system-reminder>\n{text}\n</system-reminder>"


def chat_messages(request: MessagesRequest, dialect: Dialect, reader: ContentReader) -> list[ChatMessage]:
    """The whole conversation of ``request``; what gets lost is remembered by ``reader``."""
    conversation = _Conversation(dialect, reader)
    conversation.head(request.system)
    for is_model, messages in groupby(request.messages, lambda message: message.role == "assistant"):
        if is_model:  # several in a row are one turn
            conversation.assistant(tuple(block for message in messages for block in message.content))
        else:
            conversation.between(list(messages))
    conversation.between([])  # a call that ends the conversation has no result either
    return conversation.messages


@define
class _Conversation:
    _dialect: Dialect
    _reader: ContentReader
    messages: list[ChatMessage] = field(factory=list, init=False)
    #: The calls that still wait for their results, by the client's ids.
    _calls: dict[str, str] = field(factory=dict, init=False)

    def head(self, system: Content) -> None:
        """The system prompt."""
        blocks = [block for block in system if not (isinstance(block, TextBlock) and block.text.startswith(BILLING))]
        text = text_of(self._reader.pieces(blocks))
        if text:
            self.messages.append({"role": self._dialect.system_role, "content": text})

    def assistant(self, content: Content) -> None:
        """A turn of the model's."""
        calls = [block for block in content if isinstance(block, ToolUseBlock)]
        spoken = [b for b in content if not isinstance(b, ToolUseBlock | ThinkingBlock | RedactedThinkingBlock)]
        text = text_of(self._reader.pieces(spoken))
        turn: ChatMessage = {"role": "assistant", "content": text or None}
        turn |= self._reasoning(content, bool(calls))
        if calls:
            turn["tool_calls"] = [_call(block) for block in calls]
            self._calls = {block.id: original(block.id) for block in calls}
        if not text and not calls:
            return  # nothing that could be shown: thinking alone is no turn
        last = self.messages[-1] if self.messages else None
        if last is not None and last["role"] == "assistant" and "tool_calls" not in last:
            turn["content"] = "\n\n".join(filter(None, (last["content"], turn["content"]))) or None
            self.messages[-1] = last | turn
        else:
            self.messages.append(turn)

    def between(self, stretch: list[Message]) -> None:
        """All that stands between two of the model's turns."""
        blocks = [block for message in stretch if message.role == "user" for block in message.content]
        results, orphans = self._sorted(block for block in blocks if isinstance(block, ToolResultBlock))
        pieces = self._results(results)
        for orphan in orphans:
            pieces += ["[result of an unknown tool call]", *self._reader.pieces(orphan.content)]
        answered = bool(self.messages) and self.messages[-1]["role"] == "tool"
        for message in stretch:
            if message.role == "user":
                pieces += self._reader.pieces(b for b in message.content if not isinstance(b, ToolResultBlock))
                continue
            text = text_of(self._reader.pieces(message.content))
            if not text:
                continue
            if self._dialect.system_midway == "keep":
                self._user(pieces)
                pieces = []
                self.messages.append({"role": self._dialect.system_role, "content": text})
            elif not pieces and answered and not _says_more(stretch, message):
                self.messages[-1]["content"] += "\n\n" + reminder(text)
            else:
                pieces.append(reminder(text))
        self._user(pieces)

    def _user(self, pieces: list[Piece]) -> None:
        if pieces:
            self.messages.append({"role": "user", "content": chat_content(pieces)})

    def _sorted(self, given: Iterable[ToolResultBlock]) -> tuple[list[ToolResultBlock], list[ToolResultBlock]]:
        """The first result for each call, in the order of the calls; and those that nobody called for."""
        found: dict[str, ToolResultBlock] = {}
        orphans = []
        for result in given:
            if result.tool_use_id in self._calls and result.tool_use_id not in found:
                found[result.tool_use_id] = result
            else:
                self._reader.lost.append("tool_result.tool_use_id")
                orphans.append(result)
        return [found[id] for id in self._calls if id in found], orphans

    def _results(self, results: list[ToolResultBlock]) -> list[Piece]:
        """Answers every call; gives the images of the results, each under its label."""
        given = {result.tool_use_id: result for result in results}
        images: list[Piece] = []
        for id, backend_id in self._calls.items():
            result = given.get(id)
            text = NO_RESULT
            if result is None:
                self._reader.lost.append("tool_use without result")
            else:
                pieces = self._reader.pieces(result.content)
                shown = [piece for piece in pieces if isinstance(piece, Image)]
                if shown:
                    pieces = [*(piece for piece in pieces if isinstance(piece, str)), "[image attached below]"]
                    images += [f"[image of tool result {backend_id}]", *shown]
                text = (ERROR_MARK if result.is_error else "") + (text_of(pieces) or NO_OUTPUT)
            self.messages.append({"role": "tool", "tool_call_id": backend_id, "content": text})
        self._calls = {}
        return images

    def _reasoning(self, content: Iterable[Block], has_calls: bool) -> ChatMessage:
        """What the backend needs back of what it thought (PROTOCOL 4.6)."""
        echo = self._dialect.reasoning_echo
        if not echo:
            return {}
        details: list[Any] = []
        texts: list[str] = []
        for block in content:
            if not isinstance(block, ThinkingBlock):
                continue
            reasoning = read(block.signature)
            if reasoning is not None and reasoning.field == "reasoning_details" and isinstance(reasoning.data, list):
                details += reasoning.data
                texts.append(block.thinking)
            else:
                hidden = reasoning.data if reasoning is not None and isinstance(reasoning.data, str) else ""
                texts.append(hidden or block.thinking)
        if echo == "reasoning_details":
            return {echo: details} if details else {}
        text = "\n\n".join(filter(None, texts))
        if text or (has_calls and self._dialect.echo_required):
            return {echo: text}
        return {}


def _says_more(stretch: list[Message], system: Message) -> bool:
    """Whether the user says anything beside results in this stretch after ``system``."""
    after = stretch[stretch.index(system) + 1 :]
    return any(
        not isinstance(block, ToolResultBlock)
        for message in after
        if message.role == "user"
        for block in message.content
    )


def _call(block: ToolUseBlock) -> ChatMessage:
    """A call as the model made it. Arguments that are no object would break templates, and are wrapped."""
    arguments = block.input
    if isinstance(arguments, dict) and len(arguments) == 1 and "__unparsedToolInput" in arguments:
        unparsed = arguments["__unparsedToolInput"]
        arguments = {"_raw": unparsed.get("raw", "") if isinstance(unparsed, dict) else unparsed}
    elif not isinstance(arguments, dict):
        arguments = {"_raw": arguments}
    function = {"name": shortened(block.name), "arguments": encode_text(arguments)}
    return {"id": original(block.id), "type": "function", "function": function}
