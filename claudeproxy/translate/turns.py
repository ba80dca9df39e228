"""A conversation in Anthropic's terms to the messages of Chat Completions (PROTOCOL 4.1).

What stands earlier in a conversation must give the same bytes in every later request, or the backend's prefix cache
is lost: so nothing here depends on what comes after it, but for the turn it is merged into.
"""

from collections.abc import Iterable
from typing import Any

from attrs import define, field

from claudeproxy.model.anthropic import Content, Message, MessagesRequest, OtherBlock, TextBlock
from claudeproxy.translate.dialects import Dialect

#: Claude Code's first system block changes from conversation to conversation and says nothing to a model (7.5).
BILLING = "x-anthropic-billing-header:"


def reminder(text: str) -> str:
    """How a system message of mid-conversation looks inside another turn; models know the form from Claude Code."""
    return f"<system-reminder>\n{text}\n</system-reminder>"


@define
class Conversation:
    """Collects chat messages; merges consecutive turns of one role, because strict templates want them to alternate."""

    _dialect: Dialect
    messages: list[dict[str, Any]] = field(factory=list, init=False)
    #: The kinds of the blocks that nothing was made of.
    lost: list[str] = field(factory=list, init=False)

    def system(self, content: Content) -> None:
        """The system prompt, at the head."""
        text = self._text(block for block in content if not _is_billing(block))
        if text:
            self.messages.append({"role": self._dialect.system_role, "content": text})

    def turn(self, message: Message) -> None:
        """The next turn of the conversation."""
        text = self._text(message.content)
        if not text:
            return
        if message.role != "system":
            self._add(message.role, text)
        elif self._dialect.system_midway == "keep":
            self.messages.append({"role": self._dialect.system_role, "content": text})
        else:
            self._add("user", reminder(text))

    def _add(self, role: str, text: str) -> None:
        last = self.messages[-1] if self.messages else None
        if last is not None and last["role"] == role:
            last["content"] += "\n\n" + text
        else:
            self.messages.append({"role": role, "content": text})

    def _text(self, blocks: Iterable[object]) -> str:
        texts = []
        for block in blocks:
            if isinstance(block, TextBlock):
                texts.append(block.text)
            else:
                self.lost.append(block.type if isinstance(block, OtherBlock) else _name(block))
        return "\n\n".join(filter(None, texts))


def conversation(request: MessagesRequest, dialect: Dialect) -> Conversation:
    """The whole conversation of ``request``."""
    result = Conversation(dialect)
    result.system(request.system)
    for message in request.messages:
        result.turn(message)
    return result


def _is_billing(block: object) -> bool:
    return isinstance(block, TextBlock) and block.text.startswith(BILLING)


def _name(block: object) -> str:
    return type(block).__name__.removesuffix("Block").lower()
