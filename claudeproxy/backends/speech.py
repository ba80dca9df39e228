"""What differs between kinds of servers for the backend that talks to them: one `Speech` a kind."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from claudeproxy.backends.client import BackendClient, Target
from claudeproxy.backends.generation import Machine
from claudeproxy.backends.recognition import Recognised
from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.documents import Papers
from claudeproxy.translate.dialects import Dialect
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.translation import Policy, Translation

Headers = Mapping[str, str]


class Speech(Protocol):
    """Requests there, answers back, and the questions beside them."""

    @property
    def path(self) -> str:
        """Where answers are made, below the backend's base."""

    @property
    def unknown(self) -> str:
        """The dialect of a server that does not say what it is."""

    def translate(
        self,
        request: MessagesRequest,
        model: str,
        dialect: Dialect,
        policy: Policy,
        papers: Papers,
        session: str,
    ) -> Translation:
        """The request in the server's terms, always asking for a stream. Raises `Refusal`."""

    def without_thinking(self, translation: Translation) -> Translation:
        """The same for a model that refuses to be asked to think."""

    def without_level(self, translation: Translation) -> Translation:
        """The same for a model that can be made to think, but refuses to be told how much."""

    def machine(self, reply: Reply, expected: Expected, unique: Callable[[], str]) -> Machine:
        """What reads the answer."""

    async def recognise(
        self, client: BackendClient, target: Target, headers: Headers, sure: Dialect | None
    ) -> Recognised:
        """What the server says of itself; ``sure`` is the dialect that needs no recognising. Raises `Refusal` if it
        cannot be reached."""

    def counts(self, dialect: Dialect) -> bool:
        """Whether a server of that dialect can count exactly at all."""

    async def count(
        self, client: BackendClient, target: Target, headers: Headers, body: Mapping[str, Any], dialect: Dialect
    ) -> int | None:
        """The exact number of the prompt's tokens; None where the server cannot tell. Raises `Refusal`."""
