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
        fold -> a reminder in the user message; as long as there is none, at the end of the last ``tool`` message

What was rendered once is rendered the same in every later request, so that the backend's prefix cache holds: nothing
looks further ahead than to the end of its own stretch. So a turn of the model's that holds nothing to show, such as
one of thoughts alone, is a turn nevertheless: without it the user's turns around it would become one, which the
backend has not seen before. Only at the end of the conversation it is left out, where it would be an answer begun.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from attrs import field

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
from claudeproxy.model.kinds import define
from claudeproxy.translate.content import ContentReader, Image, Piece, chat_content, text_of
from claudeproxy.translate.dialects import Dialect
from claudeproxy.translate.ids import original
from claudeproxy.translate.names import shortened
from claudeproxy.translate.signatures import Reasoning, read
from claudeproxy.wire.json import encode_text

#: Claude Code's first system block changes from conversation to conversation and says nothing to a model (7.5).
BILLING = "x-anthropic-billing-header:"
NO_RESULT = "[no result]"
NO_OUTPUT = "(no output)"
NO_ANSWER = "(no answer)"
ERROR_MARK = "[tool error] "
IMAGE_BELOW = "[image attached below]"
#: How the caller is told of earlier thoughts that do not go back to the model.
THOUGHTS = "messages.thinking"

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
    conversation.end()
    return conversation.messages


@define
class _Conversation:
    _dialect: Dialect
    _reader: ContentReader
    messages: list[ChatMessage] = field(factory=list, init=False)
    #: The calls that still wait for their results: the ids that the client and the backend know them by.
    _calls: list[tuple[str, str]] = field(factory=list, init=False)
    #: What the last user message was made of.
    _said: list[Piece] = field(factory=list, init=False)
    #: The newest message that stands in for a turn of the model's with nothing to show.
    _silent: ChatMessage | None = field(default=None, init=False)

    def head(self, system: Content) -> None:
        """The system prompt."""
        text = self._text(map(without_billing, system))
        if text:
            self.messages.append({"role": self._dialect.system_role, "content": text})

    def assistant(self, content: Content) -> None:
        """A turn of the model's."""
        calls = [block for block in content if isinstance(block, ToolUseBlock)]
        spoken = [b for b in content if not isinstance(b, ToolUseBlock | ThinkingBlock | RedactedThinkingBlock)]
        text = self._text(spoken)
        turn: ChatMessage = {"role": "assistant", "content": text or None}
        turn |= self._reasoning(content, bool(calls))
        if calls:
            turn["tool_calls"] = [_call(block) for block in calls]
            self._calls = [(block.id, original(block.id)) for block in calls]
        last = self.messages[-1] if self.messages else None
        continued = last is not None and last["role"] == "assistant" and "tool_calls" not in last
        if not text and not calls:
            if not continued and any(each["role"] != self._dialect.system_role for each in self.messages):
                self._silent = turn | {"content": NO_ANSWER}
                self.messages.append(self._silent)
            else:
                self._note_unsaid(turn)
        elif last is not None and continued:
            before = None if last is self._silent else last["content"]
            turn["content"] = "\n\n".join(filter(None, (before, turn["content"]))) or None
            self.messages[-1] = last | turn
        else:
            self.messages.append(turn)

    def end(self) -> None:
        """After the last turn."""
        if self.messages and self.messages[-1] is self._silent:
            self._note_unsaid(self.messages.pop())

    def _note_unsaid(self, turn: ChatMessage) -> None:
        """A turn is left out, its thoughts with it."""
        if turn.get(self._dialect.reasoning_echo):
            self._reader.lost.append(THOUGHTS)

    def between(self, stretch: list[Message]) -> None:
        """All that stands between two of the model's turns."""
        blocks = [block for message in stretch if message.role == "user" for block in message.content]
        pieces = self._results([block for block in blocks if isinstance(block, ToolResultBlock)])
        answered = bool(self.messages) and self.messages[-1]["role"] == "tool"
        said = bool(pieces)
        for message in stretch:
            if message.role == "user":
                spoken = self._reader.pieces(b for b in message.content if not isinstance(b, ToolResultBlock))
                pieces += spoken
                said = said or bool(spoken)
                continue
            text = self._text(message.content)
            if text and self._dialect.system_midway == "keep":
                self._user(pieces)
                pieces = []
                self.messages.append({"role": self._dialect.system_role, "content": text})
            elif text and answered and not said:  # no reason for a user message, and its place if one comes later
                self.messages[-1]["content"] += "\n\n" + reminder(text)
            elif text:
                pieces.append(reminder(text))
        self._user(pieces)

    def _text(self, blocks: Iterable[Block]) -> str:
        """The texts of ``blocks``, at a place where chat messages have no room for anything else."""
        pieces = self._reader.pieces(blocks)
        self._reader.lost += ["image" for piece in pieces if isinstance(piece, Image)]
        return text_of(pieces)

    def _user(self, pieces: list[Piece]) -> None:
        """The user's turn, or more of it: templates want user and assistant to alternate."""
        if not pieces:
            return
        if self.messages and self.messages[-1]["role"] == "user":
            self.messages.pop()
            pieces = self._said + pieces
        self._said = pieces
        self.messages.append({"role": "user", "content": chat_content(pieces)})

    def _results(self, results: list[ToolResultBlock]) -> list[Piece]:
        """Answers every call; gives what no ``tool`` message can hold: the images, each under its label, and the
        results that nobody called for."""
        images: list[Piece] = []
        for id, backend_id in self._calls:
            result = next((each for each in results if each.tool_use_id == id), None)
            if result is None:
                self._reader.lost.append("tool_use without result")
                text = NO_RESULT
            else:
                results.remove(result)
                pieces = self._reader.pieces(result.content)
                shown = [piece for piece in pieces if isinstance(piece, Image)]
                if shown:
                    pieces = [*(piece for piece in pieces if isinstance(piece, str)), IMAGE_BELOW]
                    images += [f"[image of tool result {backend_id}]", *shown]
                text = (ERROR_MARK if result.is_error else "") + (text_of(pieces) or NO_OUTPUT)
            self.messages.append({"role": "tool", "tool_call_id": backend_id, "content": text})
        self._calls = []
        for orphan in results:
            self._reader.lost.append("tool_result.tool_use_id")
            mark = ERROR_MARK if orphan.is_error else ""
            images += [mark + "[result of an unknown tool call]", *self._reader.pieces(orphan.content)]
        return images

    def _reasoning(self, content: Iterable[Block], has_calls: bool) -> ChatMessage:
        """What the backend needs back of what it thought (PROTOCOL 4.6)."""
        echo = self._dialect.reasoning_echo
        details: list[Any] = []
        texts: list[str] = []
        ours = True
        for block in content:
            if isinstance(block, RedactedThinkingBlock):
                self._reader.lost.append("redacted_thinking")
            if not isinstance(block, ThinkingBlock):
                continue
            reasoning = read(block.signature)
            ours = ours and reasoning is not None
            entries: list[Any] = []
            text = block.thinking
            if reasoning is not None and reasoning.field == "reasoning_details" and isinstance(reasoning.data, list):
                entries = reasoning.data
            elif reasoning is not None and isinstance(reasoning.data, str):
                text = reasoning.data or text
            details += entries
            texts.append(text)
            said = {"": None, "reasoning_details": entries}.get(echo, text)
            if not said and holds_thought(block, reasoning):
                self._reader.lost.append(THOUGHTS)
        if not echo:
            return {}
        if echo == "reasoning_details":
            return {echo: details} if details else {}
        # Thinking that we have cut ourselves goes back as it came, in one piece.
        text = ("" if ours else "\n\n").join(filter(None, texts))
        if text or (has_calls and self._dialect.echo_required):
            return {echo: text}
        return {}


def holds_thought(block: ThinkingBlock, reasoning: Reasoning | None) -> bool:
    """Whether there is anything in a block whose signature was read as ``reasoning``."""
    return bool(block.thinking or (block.signature if reasoning is None else reasoning.data))


def without_billing(block: Block) -> Block:
    """Only the line: should a client write it before its prompt, in one block, the prompt must stay."""
    if isinstance(block, TextBlock) and block.text.startswith(BILLING):
        return TextBlock(block.text.partition("\n")[2].lstrip("\n"))
    return block


def _call(block: ToolUseBlock) -> ChatMessage:
    """A call as the model made it."""
    function = {"name": shortened(block.name), "arguments": encode_text(arguments_of(block))}
    return {"id": original(block.id), "type": "function", "function": function}


def arguments_of(block: ToolUseBlock) -> dict[str, Any]:
    """What the call was made with. Arguments that are no object would break templates, and are wrapped."""
    arguments = block.input
    if isinstance(arguments, dict) and len(arguments) == 1 and "__unparsedToolInput" in arguments:
        unparsed = arguments["__unparsedToolInput"]
        return {"_raw": unparsed.get("raw", "") if isinstance(unparsed, dict) else unparsed}
    return arguments if isinstance(arguments, dict) else {"_raw": arguments}
