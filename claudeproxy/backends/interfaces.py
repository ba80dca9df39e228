"""What floor 5 asks of a backend, and what it gives one."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from attrs import frozen

from claudeproxy.backends.generation import Generation
from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.events import Event

#: Called with the events that follow from one read of the backend.
Deliver = Callable[[list[Event]], None]


@frozen
class Prepared:
    """A request in the backend's own terms, ready to be sent."""

    body: bytes
    #: The backend's own name of the model.
    model: str
    #: What is asked for and not sent, by field or block type.
    dropped: tuple[str, ...]
    #: The best count of the prompt before it is sent, in tokens.
    prompt_tokens: int
    #: What only the backend needs to know, to read the answer.
    context: Any = None


@frozen
class Count:
    """A number of tokens; ``source`` says how it was found: exact or estimate. ``model`` is the backend's own name."""

    tokens: int
    source: str
    model: str


class Backend(Protocol):
    """A place where answers are made."""

    @property
    def name(self) -> str:
        """The name in the settings."""

    async def prepare(self, request: MessagesRequest, model: str, session: str) -> Prepared:
        """Translates; asks the backend what it is, should that not be known yet. Raises `Refusal`.

        ``session`` is the same for all requests of one conversation, or "".
        """

    def generate(self, prepared: Prepared, message_id: str, model: str, deliver: Deliver) -> Generation:
        """Sends the request, and gives ``deliver`` the events of its answer as they come.

        ``model`` is the name that the answer says. The last event delivered is MessageStop or Failed.
        """

    async def count(self, request: MessagesRequest, model: str) -> Count:
        """How many tokens the prompt has. Raises `Refusal` for a request that cannot be translated."""

    async def models(self) -> Sequence[str]:
        """The models that the backend offers; empty while it cannot be asked."""

    def describe(self) -> str:
        """In a few words for the log: what it is and where."""

    def start(self) -> None:
        """Gets ready to answer; may be called again after `close`."""

    async def close(self) -> None:
        """Gives back what it holds. Its generations should have ended."""
