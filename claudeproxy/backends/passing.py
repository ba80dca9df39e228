"""Anthropic's own API, and servers that speak it: requests go there as they came (PROTOCOL 4.10).

As a `Forwarder` it gives the answers back as they are. With ``repairs`` it reads them instead, as any other backend
does, so that what a compatible server gets wrong is put right on the way.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IResponse

from claudeproxy.backends.client import BackendClient
from claudeproxy.backends.generation import Generation, Limits
from claudeproxy.backends.interfaces import Call, Count, Deliver, Forwarder, Letter, Offer, Prepared
from claudeproxy.backends.shared import Shared
from claudeproxy.backends.tally import Tally
from claudeproxy.model.problems import Refusal
from claudeproxy.translate.anthropic_stream import AnthropicStream
from claudeproxy.translate.chat_request import to_chat
from claudeproxy.translate.composer import Expected
from claudeproxy.translate.dialects import DIALECTS
from claudeproxy.translate.forwarding import VERSION, Header, credentials, headers_on
from claudeproxy.translate.names import Names
from claudeproxy.translate.prompt_size import Size, texture_of
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.signatures import PREFIX
from claudeproxy.translate.translation import Policy, used_ids
from claudeproxy.wire.json import decode, encode
from claudeproxy.wire.splice import with_model, without_thinking

#: No server gives more models at once.
_LIST = b"/v1/models?limit=1000"
#: How long, in seconds, a list of models may be waited for, and how long it is believed.
LIST_TIME = 2.0
#: For sizes only: what most servers would be sent.
_ANY = DIALECTS["generic"]
_LENIENT = Policy(drop_server_tools=True)


@frozen
class Place:
    """Where the server is, and who asks."""

    #: The server's root, without ``/v1``.
    root: str
    key: str = field(default="", repr=False)
    #: Shows the server the key that came with a request, rather than ``key``.
    clients_key: bool = False


@define(eq=False)
class PassThrough:
    """`backends.interfaces.Backend` for servers that speak as the client does."""

    name: str
    _place: Place
    _repairs: bool
    #: The context window in tokens, as the settings tell it; 0 for what the server tells.
    _window: int
    _limits: Limits
    _tally: Tally
    _client: BackendClient
    _clock: IReactorTime
    _unique: Callable[[], str]
    _log: Logger
    _list: Shared[Sequence[Offer]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._list = Shared(self._ask_for_list, self._clock, LIST_TIME)

    @property
    def forwarder(self) -> Forwarder | None:
        """Itself, unless the answers are to be repaired."""
        return None if self._repairs else self

    async def forward(self, letter: Letter, model: str) -> IResponse:
        body = self._edited(letter.body, model)
        return await self._client.send(letter.method, self._url(letter.target), body, self._headers(letter))

    async def prepare(self, call: Call, model: str) -> Prepared:
        body = self._edited(call.letter.body, model)
        if not call.request.stream:  # only a stream can be cancelled; the answer is put together here
            body = encode({**decode(body), "stream": True})
        size = self._size(call, model)
        estimate = self._tally.estimate(model, size).tokens
        window = await self._window_of(model)
        choice = call.request.tool_choice
        expected = Expected(
            self.name,
            estimate,
            window,
            call.request.stop_sequences,
            silent=call.request.max_tokens == 0,
            one_call=choice is not None and bool(choice.disable_parallel_tool_use),
            names=Names.of(tool.name for tool in call.request.tools),
            used_ids=used_ids(call.request),
            thinks=call.request.thinking is not None and call.request.thinking.type != "disabled",
        )
        return Prepared(body, model, (), (), estimate, window, (expected, size, call.letter))

    def generate(self, prepared: Prepared, message_id: str, model: str, deliver: Deliver) -> Generation:
        expected, size, letter = prepared.context
        machine = AnthropicStream(Reply(message_id, model), expected, self._unique)
        heard = self._tally.listener(prepared.model, size, machine, deliver)
        generation = Generation(self.name, machine, heard, self._clock, self._limits, self._log)
        url = self._url(letter.target)
        generation.start(self._client.send(b"POST", url, prepared.body, self._headers(letter)))
        return generation

    async def count(self, call: Call, model: str) -> Count:
        body = self._edited(call.letter.body, model)
        asked = partial(self._ask_for_count, call.letter, body)
        count = await self._tally.count(model, body, {}, self._size(call, model), asked)
        return evolve(count, window=await self._window_of(model))

    async def offers(self) -> Sequence[Offer]:
        return await self._list.get() or []

    def describe(self) -> str:
        return f"{self.name} at {self._place.root}"

    def start(self) -> None:
        Deferred.fromCoroutine(self.offers()).addErrback(self._log_failure)

    async def close(self) -> None:
        await self._client.close()

    async def _ask_for_count(self, letter: Letter, body: bytes) -> int | None:
        status, said = await self._client.question(b"POST", self._url(letter.target), body, self._headers(letter))
        if status == 200 and isinstance(said, dict) and isinstance(said.get("input_tokens"), int):
            return int(said["input_tokens"])
        return None

    def _size(self, call: Call, model: str) -> Size:
        """How large the prompt is: about what any server would be sent of it."""
        try:
            return self._tally.measure(to_chat(call.request, model, _ANY, _LENIENT).body, _ANY.name)
        except Refusal:
            return Size(texture=texture_of(call.letter.body.decode("utf-8", "replace")))

    def _edited(self, body: bytes, model: str) -> bytes:
        """The client's bytes, but for the model's name, and without thoughts that carry a signature of ours: a real
        server would refuse it (PROTOCOL 4.6)."""
        if model:
            body = with_model(body, model)
        body, removed = without_thinking(body, PREFIX)
        if removed:
            self._log.debug("{count} thinking blocks of other backends left out", count=removed)
        return body

    def _url(self, target: bytes) -> str:
        return self._place.root + target.decode("ascii", "replace")

    def _headers(self, letter: Letter) -> list[Header]:
        if not self._place.clients_key:
            return headers_on(letter.headers, self._place.key)
        own = [pair for pair in letter.headers if pair[0].lower() in (b"x-api-key", b"authorization")]
        return headers_on(letter.headers, "") + own

    async def _window_of(self, model: str) -> int:
        if self._window:
            return self._window
        return next((offer.window for offer in await self.offers() if offer.model == model), 0)

    async def _ask_for_list(self) -> Sequence[Offer] | None:
        headers = [VERSION, *credentials(self._place.key)]
        try:
            status, said = await self._client.question(b"GET", self._url(_LIST), None, headers)
        except Refusal:
            return None
        data = said.get("data") if status == 200 and isinstance(said, dict) else None
        entries = data if isinstance(data, list) else []
        return [self._offer(each) for each in entries if isinstance(each, dict) and isinstance(each.get("id"), str)]

    def _offer(self, entry: Mapping[str, Any]) -> Offer:
        """An entry of Anthropic's list is kept whole; one of OpenAI's shape only tells a name."""
        window, longest = (entry.get(name) for name in ("max_input_tokens", "max_tokens"))
        as_told = entry if entry.get("type") == "model" and "display_name" in entry else {}
        return Offer(
            entry["id"],
            self._window or (window if isinstance(window, int) else 0),
            longest if isinstance(longest, int) else 0,
            as_told=as_told,
        )

    def _log_failure(self, failure: Failure) -> None:
        self._log.failure("asking backend {backend} for its models failed", failure=failure, backend=self.name)
