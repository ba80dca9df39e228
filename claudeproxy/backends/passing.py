"""Anthropic's own API, and servers that speak it: requests go there as they came (PROTOCOL 4.10).

As a `Forwarder` it gives the answers back as they are. With ``repairs`` it reads them instead, as any other backend
does, so that what a compatible server gets wrong is put right on the way.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import evolve, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.iweb import IResponse

from claudeproxy.backends.client import BackendClient
from claudeproxy.backends.generation import Generation
from claudeproxy.backends.hush import Hush
from claudeproxy.backends.interfaces import Call, Count, Deliver, Forwarder, Letter, Offer, Prepared
from claudeproxy.backends.journey import Journey
from claudeproxy.backends.kindred import ask_kindred, is_hosted
from claudeproxy.backends.patience import Limits
from claudeproxy.backends.profile import Facts
from claudeproxy.backends.recognition import Recognised
from claudeproxy.backends.recovery import FRESH, FRESH_HOSTED, Acquaintance, in_words
from claudeproxy.backends.tally import Tally
from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.kinds import define, frozen
from claudeproxy.model.problems import Refusal
from claudeproxy.routing.expectations import NO_SECRET, Secret, as_secret
from claudeproxy.translate.anthropic_stream import AnthropicStream
from claudeproxy.translate.chat_request import to_chat
from claudeproxy.translate.dialects import DIALECTS
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.forwarding import Header, headers_on
from claudeproxy.translate.names import Names
from claudeproxy.translate.prompt_size import Size, texture_of
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.signatures import PREFIX
from claudeproxy.translate.thinking import affordable
from claudeproxy.translate.translation import Policy, used_ids
from claudeproxy.translate.window import Fit
from claudeproxy.wire.json import decode, decode_shallow, encode
from claudeproxy.wire.splice import with_members, with_model, without_thinking

#: For sizes only: what most servers would be sent.
_ANY = DIALECTS["generic"]
_LENIENT = Policy(drop_server_tools=True)
#: The members of a request that make its prompt: Anthropic counts no others (PROTOCOL 1.7).
_COUNTED = (
    *("model", "messages", "system", "tools", "tool_choice", "thinking"),
    *("output_config", "context_management", "mcp_servers"),
)


@frozen
class Place:
    """Where the server is, and who asks."""

    #: The server's root, without ``/v1``.
    root: str
    key: Secret = field(default=NO_SECRET, converter=as_secret)
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
    _acquaintance: Acquaintance = field(init=False)
    #: The server's own entries in its list, by the model.
    _entries: Mapping[str, Mapping[str, Any]] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        lasting = FRESH_HOSTED if is_hosted(self._place.root) else FRESH
        self._acquaintance = Acquaintance(self.name, self._recognise, _described, self._clock, self._log, lasting)

    @property
    def forwarder(self) -> Forwarder | None:
        """Itself, unless the answers are to be repaired."""
        return None if self._repairs else self

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def hush(self) -> Hush:
        return self._client.hush

    async def forward(self, letter: Letter, model: str, journey: Journey) -> IResponse:
        return await self._send(letter, self._edited(letter, model), journey)

    async def prepare(self, call: Call, model: str) -> Prepared:
        body = self._edited(call.letter, model)
        size = self._size(call, model)
        fit = await self._fitted(call, body, model, size)
        call.journey.fit, call.journey.cut_to = fit, fit.left
        fit.check()
        changes = _changes(call.request, body, fit.left)
        if changes:
            body = with_members(body, changes)
        choice = call.request.tool_choice
        expected = Expected(
            self.name,
            fit.tokens,
            fit.window,
            call.request.stop_sequences,
            silent=call.request.max_tokens == 0,
            one_call=choice is not None and bool(choice.disable_parallel_tool_use),
            names=Names.of(tool.name for tool in call.request.tools),
            used_ids=used_ids(call.request),
            thinks=call.request.thinking is not None and call.request.thinking.type != "disabled",
        )
        return Prepared(
            body, model, (), (), fit.tokens, fit.window, (expected, size, call.letter), journey=call.journey
        )

    def generate(self, prepared: Prepared, message_id: str, model: str, deliver: Deliver) -> Generation:
        expected, size, letter = prepared.context
        machine = AnthropicStream(Reply(message_id, model), expected, self._unique)
        ending = [self._tally.learner(prepared.model, size, machine)]
        journey, told, limits = prepared.journey, letter.told, self._limits
        generation = Generation(
            self.name, machine, deliver, self._clock, limits, self._log, journey, told, ending, self._client.hush
        )
        generation.start(self._send(letter, prepared.body, journey))
        return generation

    async def count(self, letter: Letter, read: Callable[[], MessagesRequest], model: str) -> Count:
        body = self._edited(letter, model)
        asked = partial(self._ask_for_count, letter, letter.target, body)
        count = await self._tally.count(model, body, {}, self._size(Call(read(), letter), model), asked)
        return evolve(count, window=await self._window_of(model))

    async def offers(self) -> Sequence[Offer]:
        offered = await self._acquaintance.offered()
        return [self._offer(name, facts) for name, facts in offered.items()]

    async def probe(self) -> Recognised:
        return await self._recognise()

    def describe(self) -> str:
        return f"{self.name} at {self._place.root}"

    def start(self) -> None:
        self._acquaintance.start()

    def look_again(self) -> None:
        self._acquaintance.doubt()

    def is_alive(self) -> bool:
        return self._acquaintance.is_alive()

    def knows(self, model: str) -> bool:
        return self._acquaintance.knows(model)

    @property
    def is_up(self) -> bool | None:
        return self._acquaintance.is_up

    async def close(self) -> None:
        self._acquaintance.stop()
        await self._client.close()

    async def _fitted(self, call: Call, body: bytes, model: str, size: Size) -> Fit:
        """How the prompt fits: counted by the server only where an estimate comes near the window."""
        window = await self._window_of(model)
        known = self._acquaintance.last
        best = self._tally.estimate(model, size)
        silent = known is not None and known.dialect.cuts_silently
        fit = Fit(best.tokens, best.source, window, call.request.max_tokens or None, silent, best.counted)
        if not fit.is_near:
            return fit
        path, mark, query = call.letter.target.partition(b"?")
        prompt = _prompt_of(body)
        asked = partial(self._ask_for_count, call.letter, path + b"/count_tokens" + mark + query, prompt)
        exact = await self._tally.count(model, prompt, {}, size, asked)
        return evolve(fit, tokens=exact.tokens, source=exact.source, counted=exact.counted)

    async def _ask_for_count(self, letter: Letter, target: bytes, body: bytes) -> int | None:
        status, said = await self._client.question(b"POST", self._url(target), body, self._headers(letter))
        if status == 200 and isinstance(said, dict) and isinstance(said.get("input_tokens"), int):
            return int(said["input_tokens"])
        return None

    def _size(self, call: Call, model: str) -> Size:
        """How large the prompt is: about what any server would be sent of it."""
        try:
            return self._tally.measure(to_chat(call.request, model, _ANY, _LENIENT).body, _ANY.name)
        except Refusal:
            return Size(texture=texture_of(call.letter.body.decode("utf-8", "replace")))

    def _edited(self, letter: Letter, model: str) -> bytes:
        """The client's bytes, but for the model's name, and without thoughts that carry a signature of ours: a real
        server would refuse it (PROTOCOL 4.6)."""
        body = with_model(letter.body, model) if model else letter.body
        body, removed = without_thinking(body, PREFIX)
        if removed:
            self._log.debug("{count} thinking blocks of other backends left out", count=removed, **letter.told)
        return body

    def _url(self, target: bytes) -> str:
        return self._place.root + target.decode("ascii", "replace")

    def _headers(self, letter: Letter) -> list[Header]:
        if not self._place.clients_key:
            return headers_on(letter.headers, self._place.key.reveal())
        own = [pair for pair in letter.headers if pair[0].lower() in (b"x-api-key", b"authorization")]
        return headers_on(letter.headers, "") + own

    async def _send(self, letter: Letter, body: bytes, journey: Journey) -> IResponse:
        url = self._url(letter.target)
        try:
            return await self._client.send(letter.method, url, body, self._headers(letter), journey)
        except Refusal:
            self._acquaintance.doubt()
            raise

    def _offer(self, model: str, facts: Facts) -> Offer:
        entry = self._entries.get(model, {})
        if entry and self._window:
            entry = {**entry, "max_input_tokens": self._window}
        return Offer(model, self._window or facts.window, facts.cells.get("max_output", 0), as_told=entry)

    async def _window_of(self, model: str) -> int:
        return self._window or (await self._acquaintance.facts(model)).window

    async def _recognise(self) -> Recognised:
        found = await ask_kindred(self._client, self._place.root, self._place.key.reveal())
        self._entries = found.entries
        return found.recognised


def _prompt_of(body: bytes) -> bytes:
    """What of a request may be counted, each value as its client wrote it."""
    told = decode_shallow(body)
    return encode({name: told[name] for name in _COUNTED if name in told})


def _changes(request: MessagesRequest, body: bytes, most: int | None) -> dict[str, Any]:
    """The members that a request needs otherwise than its client wrote them, for an answer of ``most`` tokens."""
    # Only a stream can be cancelled; the answer is put together here.
    changes: dict[str, Any] = {} if request.stream else {"stream": True}
    if most is None:
        return changes
    budget = request.thinking.budget_tokens if request.thinking is not None else None
    if budget is not None and affordable(budget, most) < budget:
        told = decode(decode_shallow(body)["thinking"])
        changes["thinking"] = {**told, "budget_tokens": affordable(budget, most)}
    return {**changes, "max_tokens": most}


def _described(found: Recognised) -> str:
    return in_words(found, "Anthropic's API")
