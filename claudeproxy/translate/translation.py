"""A request in a backend's terms: what every dialect's translation comes to."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

from attrs import evolve

from claudeproxy.model.anthropic import MessagesRequest, ToolUseBlock
from claudeproxy.model.kinds import frozen
from claudeproxy.translate.names import Names
from claudeproxy.translate.thinking import Asked, lost_without


@frozen
class Policy:
    """What the settings say of a backend's lossy corners."""

    #: Server tools are dropped rather than refused.
    drop_server_tools: bool = False
    #: An image for a blind model is refused rather than replaced by a note.
    refuse_images: bool = False


STRICT = Policy()
#: One for all: Python makes each empty set anew.
_NO_IDS: frozenset[str] = frozenset()


@frozen
class Translation:
    """The JSON to send; the names of what it does not carry though the caller asked for it, and of what is done in
    another way than was asked; and what is needed to understand the answer."""

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
    #: What the caller may rely on with the real service, and what here the proxy or a word to the model stands in for.
    emulated: tuple[str, ...] = ()


def once(*names: Iterable[str]) -> tuple[str, ...]:
    """All of them, each but once."""
    return tuple(dict.fromkeys(chain(*names)))


def bare(translation: Translation, fields: Iterable[str]) -> Translation:
    """Without the ``fields`` of the body that ask for thinking, for a model that refuses to be asked."""
    body = {name: value for name, value in translation.body.items() if name not in fields}
    if body.keys() == translation.body.keys():
        return translation
    return evolve(translation, body=body, dropped=once(translation.dropped, lost_without(translation.wanted)))


def emulated_fields(request: MessagesRequest) -> list[str]:
    """What no backend is asked for: the proxy watches for stop sequences itself, because no server but vLLM would
    tell which one hit, and throws away the one token that must be generated where none is wanted."""
    found = ["stop_sequences"] if request.stop_sequences else []
    return [*found, "max_tokens"] if request.max_tokens == 0 else found


def used_ids(request: MessagesRequest) -> frozenset[str]:
    """The ids of all calls in the conversation so far."""
    blocks = (block for message in request.messages for block in message.content)
    return frozenset(block.id for block in blocks if isinstance(block, ToolUseBlock)) or _NO_IDS
