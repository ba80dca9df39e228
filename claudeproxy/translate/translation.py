"""A request in a backend's terms: what every dialect's translation comes to."""

from typing import Any

from attrs import frozen

from claudeproxy.model.anthropic import MessagesRequest, ToolUseBlock
from claudeproxy.translate.names import Names
from claudeproxy.translate.thinking import Asked


@frozen
class Policy:
    """What the settings say of a backend's lossy corners."""

    #: Server tools are dropped rather than refused.
    drop_server_tools: bool = False
    #: An image for a blind model is refused rather than replaced by a note.
    refuse_images: bool = False


STRICT = Policy()


@frozen
class Translation:
    """The JSON to send; the names of what it does not carry though the caller asked for it; and what is needed to
    understand the answer."""

    body: dict[str, Any]
    dropped: tuple[str, ...]
    names: Names
    #: Ids of calls that the client knows already.
    used_ids: frozenset[str]
    one_call: bool
    wanted: Asked
    #: The answer's beginning, if the client wrote it (a prefill).
    begun: str = ""
    #: The longest answer that is asked for, in tokens, where the server does not say that it stopped there; else 0.
    limit: int = 0


def used_ids(request: MessagesRequest) -> frozenset[str]:
    """The ids of all calls in the conversation so far."""
    blocks = (block for message in request.messages for block in message.content)
    return frozenset(block.id for block in blocks if isinstance(block, ToolUseBlock))
