"""What floor 5 asks of a backend, and what it gives one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from attrs import field
from twisted.web.iweb import IResponse

from claudeproxy.backends.generation import Generation
from claudeproxy.backends.hush import Hush
from claudeproxy.backends.journey import Journey
from claudeproxy.backends.patience import Limits
from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.events import Event
from claudeproxy.model.kinds import frozen
from claudeproxy.routing.sessions import Turn

#: Called with the events that follow from one read of the backend.
Deliver = Callable[[list[Event]], None]


@frozen
class Letter:
    """An HTTP request as its client wrote it, for those who pass it on."""

    method: bytes
    #: Path and query, below whatever prefix the client put in front.
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    #: Without its content encoding.
    body: bytes = field(default=b"", repr=False)
    #: What lines of the log say of the request that they belong to, as fields.
    told: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)


@frozen
class Call:
    """What a client asks for."""

    request: MessagesRequest
    letter: Letter
    #: The same for all requests of one conversation, or "".
    session: str = ""
    #: Which of the conversation's agents asks, where that is told.
    kin: str = ""
    #: Where it is noted what becomes of it.
    journey: Journey = field(factory=Journey, eq=False, repr=False)


@frozen
class Prepared:
    """A request in the backend's own terms, ready to be sent."""

    body: bytes
    #: The backend's own name of the model.
    model: str
    #: What is asked for and not sent, by field or block type.
    dropped: tuple[str, ...]
    #: What the proxy or a prompt does in the backend's stead, likewise.
    emulated: tuple[str, ...]
    #: The best count of the prompt before it is sent, in tokens.
    prompt_tokens: int
    #: The model's context window, in tokens; 0 if nobody knows it.
    window: int
    #: What only the backend needs to know, to read the answer.
    context: Any = None
    #: How the prompt goes on from the conversation's last one; None where no session is told.
    turn: Turn | None = None
    #: The call's own.
    journey: Journey = field(factory=Journey, eq=False, repr=False)


@frozen
class Count:
    """A number of tokens; ``source`` says how it was found: exact, tokenizer, learned or estimate. ``model`` is the
    backend's own name."""

    tokens: int
    source: str
    model: str
    #: The model's context window, in tokens; 0 if nobody knows it.
    window: int = 0
    #: What of the request is not counted, because it would not be sent.
    dropped: tuple[str, ...] = ()
    #: How many of the tokens the backend itself has counted, in an earlier turn of the conversation.
    counted: int = 0


@frozen
class Abilities:
    """What a model can do of that which not every model can."""

    tools: bool
    images: bool
    thinking: bool
    #: The efforts that make a difference; none if it cannot be told how much to think.
    efforts: tuple[str, ...]
    #: Whether an answer can be bound to a schema.
    structured: bool


@frozen
class Offer:
    """A model of a backend, as far as it is known."""

    model: str
    #: The context window and the longest answer, in tokens; 0 if nobody knows.
    window: int = 0
    max_output: int = 0
    abilities: Abilities | None = None
    #: An Anthropic server's own entry in its list, which says all of it better.
    as_told: Mapping[str, Any] = field(factory=dict)


class Server(Protocol):
    """A server of our own: a service that runs its process."""

    @property
    def serves(self) -> bool:
        """Whether it can be asked now."""

    def startService(self) -> None:
        """Starts it, without waiting for it."""

    def stopService(self) -> Any:
        """Ends it; a Deferred where that takes time."""


class Forwarder(Protocol):
    """Passes requests on as they are, and answers back."""

    @property
    def limits(self) -> Limits:
        """How long an answer may take."""

    @property
    def hush(self) -> Hush:
        """Takes the server's key out of what it says."""

    async def forward(self, letter: Letter, model: str, journey: Journey) -> IResponse:
        """The answer's beginning, whatever its status; its body is to be delivered as it comes.

        ``model`` takes the place of the one in the body, unless it is "". Raises `Refusal` if the backend cannot be
        reached. Cancelling closes the connection.
        """


class Backend(Protocol):
    """A place where answers are made."""

    @property
    def name(self) -> str:
        """The name in the settings."""

    @property
    def forwarder(self) -> Forwarder | None:
        """For a backend that speaks as the client does: then nothing else here is asked of it but `offers`."""

    async def prepare(self, call: Call, model: str) -> Prepared:
        """Translates; asks the backend what it is, should that not be known yet. Raises `Refusal`."""

    def generate(self, prepared: Prepared, message_id: str, model: str, deliver: Deliver) -> Generation:
        """Sends the request, and gives ``deliver`` the events of its answer as they come.

        ``model`` is the name that the answer says. The last event delivered is MessageStop or Failed.
        """

    async def count(self, letter: Letter, read: Callable[[], MessagesRequest], model: str) -> Count:
        """How many tokens the prompt of ``letter`` has. ``read`` takes its body apart, which is not done with one that
        was counted before. Raises `Refusal` for a request that cannot be translated, and what ``read`` raises."""

    async def offers(self) -> Sequence[Offer]:
        """The models that the backend has; empty while it cannot be asked."""

    async def probe(self) -> Any:
        """Asks the server, once, what it is: a `backends.recognition.Recognised`. Raises `Refusal` if it cannot be
        reached or is not ready."""

    def describe(self) -> str:
        """In a few words for the log: what it is and where."""

    def start(self) -> None:
        """Gets ready to answer; may be called again after `close`."""

    def look_again(self) -> None:
        """Asks the server anew what it is, without letting anybody wait."""

    def is_alive(self) -> bool:
        """Whether it answered when it was last asked what it is; if that is long ago, it is asked again meanwhile."""

    def knows(self, model: str) -> bool:
        """Whether the server has told of a model of this very name."""

    @property
    def is_up(self) -> bool | None:
        """Whether it was there when it was last heard of; None before the first time."""

    async def close(self) -> None:
        """Gives back what it holds. Its generations should have ended."""
