"""Backends that are translated to: what all of them share, whatever they speak."""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import evolve, field
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.iweb import IResponse

from claudeproxy.backends.client import LONGEST_ERROR, BackendClient, Target, read_body
from claudeproxy.backends.documents import DocumentReader
from claudeproxy.backends.generation import Generation
from claudeproxy.backends.interfaces import Call, Count, Deliver, Letter, Offer, Prepared, Server
from claudeproxy.backends.journey import MILDER, Journey
from claudeproxy.backends.patience import Limits
from claudeproxy.backends.profile import Facts, Profile
from claudeproxy.backends.recognition import Recognised
from claudeproxy.backends.recovery import FRESH, FRESH_HOSTED, Acquaintance, in_words, printable
from claudeproxy.backends.remembering import remembering
from claudeproxy.backends.speech import Speech
from claudeproxy.backends.tally import Tally
from claudeproxy.backends.vigil import Check
from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.kinds import define, frozen
from claudeproxy.model.problems import Refusal, invalid_request
from claudeproxy.routing.sessions import Sessions
from claudeproxy.translate.chain import Chain
from claudeproxy.translate.chat_request import hashed
from claudeproxy.translate.dialects import DIALECTS, Dialect
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.failures import problem_from_answer
from claudeproxy.translate.prompt_size import Size
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.translation import STRICT, Policy, Translation
from claudeproxy.translate.web_search import is_web_search, no_results
from claudeproxy.translate.window import Fit, limited, wanted
from claudeproxy.wire.json import decode_shallow, encode

#: What servers say of a model that cannot think, if they are asked to make it (LM Studio, Ollama).
_NO_THINKING = re.compile(
    rb"does not support (?:thinking|reasoning)|think value .{0,40} is not supported|invalid think value", re.IGNORECASE
)
#: What Ollama says of one that thinks, but cannot be told how much.
_NO_LEVEL = re.compile(rb"think value .{0,40} is not supported|invalid think value", re.IGNORECASE)
#: The families that are services, not servers: what they offer does not change from one minute to the next.
_HOSTED = ("openai", "openrouter", "deepseek", "kimi", "glm")

#: Where servers tell that they live, below their roots, even while they read a prompt. vLLM's ``/health`` is not here:
#: a busy one takes half a minute for it (vllm-project/vllm#38157), and would be taken for dead.
_VITAL = {"llama.cpp": "/health", "ollama": "/api/version"}
#: What a prompt's count does not depend on.
_UNCOUNTED = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens", "stream", "stream_options"})


@frozen
class _Milder:
    """How to ask for less, the words upon which it is done, and the models that are known to say them."""

    words: re.Pattern[bytes]
    models: set[str]
    #: The fields of a request that are left out, and those that say something else.
    without: frozenset[str]
    instead: Mapping[str, Any]

    def of(self, body: bytes) -> bytes:
        """The request that asks for less than ``body``; made when it is needed, which is once for a model."""
        asked = {name: value for name, value in decode_shallow(body).items() if name not in self.without}
        return encode({**asked, **self.instead})


@frozen
class _Context:
    expected: Expected
    #: The size of the prompt, from which its count is learned.
    size: Size
    #: How to find out whether the server lives, where it can be asked.
    check: Check | None
    #: The same with less of a wish to think, where there was one: for a model that refuses it.
    milder: tuple[_Milder, ...]
    #: Headers of this request alone.
    headers: Mapping[str, str]
    #: A request that needs no backend.
    search: MessagesRequest | None
    #: What lines of the log say of the request.
    told: Mapping[str, Any]


@frozen
class Manner:
    """How one backend is talked to: the settings' part of it."""

    limits: Limits
    #: The dialect that is sure; None to ask the server.
    dialect: Dialect | None = None
    cells: Mapping[str, Any] = field(factory=dict)
    policy: Policy = STRICT
    #: For a server that has but one model and answers to any name: that model's name.
    only_model: str = ""
    #: The context window in tokens, whatever the server tells; 0 for what it tells.
    window: int = 0
    #: The header that tells load balancers which requests belong together; "" for none.
    affinity_header: str = ""


@define(eq=False)
class TranslatingBackend:
    """One server. ``locate`` tells where it is: a child process moves when it is restarted."""

    name: str
    _place: str
    _speech: Speech
    _client: BackendClient
    _locate: Callable[[], Awaitable[Target]]
    _manner: Manner
    _documents: DocumentReader
    _tally: Tally
    _sessions: Sessions
    _clock: IReactorTime
    _unique: Callable[[], str]
    _log: Logger
    #: The service that runs the server, if it is ours to run.
    _process: Server | None = None
    #: The models that have refused to think.
    _thoughtless: set[str] = field(factory=set, init=False)
    #: Those that think, but have refused to be told how much.
    _levelless: set[str] = field(factory=set, init=False)
    _acquaintance: Acquaintance = field(init=False)

    def __attrs_post_init__(self) -> None:
        sure = self._manner.dialect
        lasting = FRESH_HOSTED if sure is not None and sure.name in _HOSTED else FRESH
        # The family matters before the first request; what the server tells beside it may come later, but for
        # llama.cpp's template.
        awaited = sure is None or sure.name == "llama.cpp"
        self._acquaintance = Acquaintance(
            self.name, self._recognise, self._described, self._clock, self._log, lasting, awaited
        )

    @property
    def forwarder(self) -> None:
        """Nothing is passed on as it is."""

    async def prepare(self, call: Call, model: str) -> Prepared:
        request, session = call.request, call.session
        model = self._manner.only_model or model
        profile = await self._learn(model)
        dialect = profile.dialect
        search = request if is_web_search(request) else None
        if search is not None:
            request = evolve(request, tools=(), tool_choice=None)
        chat = await self._translated(request, model, dialect, session)
        if model in self._thoughtless:
            chat = self._speech.without_thinking(chat)
        elif model in self._levelless:
            chat = self._speech.without_level(chat)
        if request.tools and dialect.tools == "no":  # said of every request: an agent without tools is none
            told = "model {model} of {backend} gets no tools: its template has no place for them"
            self._log.warn(told, model=printable(model), backend=self.name, **call.letter.told)
        size = self._tally.measure(chat.body, dialect.name)
        fit = await self._fitted(chat.body, model, profile, size)
        most = None if fit.left is None or search is not None else max(fit.left, dialect.least_output)
        call.journey.translated(chat.body, dialect.name, fit, most)
        if search is None:
            fit.check()
        if most is not None:
            chat = evolve(chat, body=limited(chat.body, most, dialect))
        expected = Expected.of(self.name, fit.tokens, profile.window, request, chat, dialect)
        milder = tuple(self._milder(chat)) if dialect.may_refuse_thinking else ()
        check, affinity = self._check(dialect), self._affinity(call)
        context = _Context(expected, size, check, milder, affinity, search, call.letter.told)
        turn = None
        if call.session and search is None:  # of a search the backend sees nothing
            chain = Chain.of(chat.body, f"{self.name} {dialect.name}")
            turn = self._sessions.begin(call.session, call.kin, chain, self._clock.seconds())
        return Prepared(
            encode(chat.body),
            model,
            chat.dropped,
            chat.emulated,
            fit.tokens,
            profile.window,
            context,
            turn,
            call.journey,
        )

    def generate(self, prepared: Prepared, message_id: str, model: str, deliver: Deliver) -> Generation:
        context: _Context = prepared.context
        reply = Reply(message_id, model)
        machine = self._speech.machine(reply, context.expected, self._unique)

        ending = [self._tally.learner(prepared.model, context.size, machine)]
        if prepared.turn is not None:
            ending.insert(0, remembering(self._sessions, prepared.turn, machine, self._clock.seconds))
        journey, told, limits = prepared.journey, context.told, self._manner.limits
        generation = Generation(
            self.name, machine, deliver, self._clock, limits, self._log, journey, told, ending, self._client.hush
        )
        if context.search is None:
            generation.start(self._send(prepared.model, prepared.body, context, journey), context.check)
        else:
            generation.conclude(no_results(context.search, reply, prepared.prompt_tokens, self._unique()))
        return generation

    async def count(self, letter: Letter, read: Callable[[], MessagesRequest], model: str) -> Count:
        model = self._manner.only_model or model
        profile = await self._learn(model)
        known = self._tally.recall(letter.body, profile)
        if known is not None:
            return known
        dialect, request = profile.dialect, read()
        # What a backend reads does not depend on how long its answer may be; and a search has no tool of ours.
        asked = evolve(request, max_tokens=None, stop_sequences=())
        if is_web_search(request):
            asked = evolve(asked, tools=(), tool_choice=None)
        chat = await self._translated(asked, model, dialect, "")
        size = self._tally.measure(chat.body, dialect.name)
        count = await self._best_count(chat.body, model, dialect, size)
        count = evolve(count, window=profile.window, dropped=chat.dropped)
        self._tally.keep(letter.body, profile, count)
        return count

    async def offers(self) -> Sequence[Offer]:
        offered = await self._acquaintance.offered()
        return [self._profile(name, facts).offer for name, facts in offered.items()]

    async def probe(self) -> Recognised:
        return await self._recognise()

    def describe(self) -> str:
        return self._place

    def start(self) -> None:
        if self._process is not None:
            self._process.startService()
        self._acquaintance.start()  # whether it answers is of no importance yet

    def look_again(self) -> None:
        self._acquaintance.doubt()

    def is_alive(self) -> bool:
        return (self._process is None or self._process.serves) and self._acquaintance.is_alive()

    def knows(self, model: str) -> bool:
        return self._acquaintance.knows(model)

    @property
    def is_up(self) -> bool | None:
        return self._acquaintance.is_up

    async def close(self) -> None:
        self._acquaintance.stop()
        await self._client.close()
        if self._process is not None:
            await maybeDeferred(self._process.stopService)

    async def _fitted(self, body: dict[str, Any], model: str, profile: Profile, size: Size) -> Fit:
        """How the prompt fits: counted exactly only where an estimate comes near the window."""
        silent = profile.dialect.cuts_silently
        best = self._tally.estimate(model, size)
        fit = Fit(best.tokens, best.source, profile.window, wanted(body), silent, best.counted)
        if not fit.is_near:
            return fit
        exact = await self._best_count(body, model, profile.dialect, size)
        return evolve(fit, tokens=exact.tokens, source=exact.source, counted=exact.counted)

    async def _best_count(self, body: Mapping[str, Any], model: str, dialect: Dialect, size: Size) -> Count:
        ask = partial(self._ask_for_count, body, dialect) if self._speech.counts(dialect) else None
        if ask is None and not self._tally.has_tokenizer(model):
            return self._tally.estimate(model, size)  # nobody can do better: spared the search in what was counted
        return await self._tally.count(model, encode(_counted(body)), body, size, ask)

    async def _ask_for_count(self, body: Mapping[str, Any], dialect: Dialect) -> int | None:
        target = await self._locate()
        return await self._speech.count(self._client, target, self._headers(target), body, dialect)

    def _check(self, dialect: Dialect) -> Check | None:
        """Whether the server lives: llama.cpp and Ollama answer that while they read a prompt."""
        path = _VITAL.get(dialect.name)
        return None if path is None else partial(self._see, path)

    async def _see(self, path: str) -> None:
        target = await self._locate()
        await self._client.get(target.root + path, self._headers(target))

    async def _translated(self, request: MessagesRequest, model: str, dialect: Dialect, session: str) -> Translation:
        papers = await self._documents.read(request, with_images=dialect.images == "yes")
        try:
            return self._speech.translate(request, model, dialect, self._manner.policy, papers, session)
        except RecursionError:
            raise Refusal(invalid_request("messages: nested too deeply")) from None

    def _affinity(self, call: Call) -> Mapping[str, str]:
        """A session's requests go to the same place, those of its sub-agents to places of their own."""
        header = self._manner.affinity_header
        return {header: hashed(f"{call.session} {call.kin}")[:32]} if header and call.session else {}

    async def _send(self, model: str, body: bytes, context: _Context, journey: Journey) -> IResponse:
        try:
            target = await self._locate()
            url, headers = target.base + self._speech.path, {**self._headers(target), **context.headers}
            response = await self._client.post(url, body, headers, journey)
        except Refusal:
            self._acquaintance.doubt()
            raise
        rest = context.milder
        while response.code == 400 and rest:
            said = await read_body(response, LONGEST_ERROR, self._clock, self._manner.limits.silence)
            chosen = next((each for each in rest if each.words.search(said)), None)
            if chosen is None:
                raise Refusal(problem_from_answer(self.name, response.code, said))
            chosen.models.add(model)
            rest = rest[rest.index(chosen) + 1 :]
            told = "model {model} of {backend} refuses to be asked to think so; from now on it is asked for less"
            self._log.info(told, model=printable(model), backend=self.name, **context.told)
            response = await self._client.post(url, chosen.of(body), headers, journey, MILDER)
        return response

    def _milder(self, chat: Translation) -> Iterator[_Milder]:
        for words, models, less in (
            (_NO_LEVEL, self._levelless, self._speech.without_level(chat)),
            (_NO_THINKING, self._thoughtless, self._speech.without_thinking(chat)),
        ):
            without = frozenset(chat.body.keys() - less.body.keys())
            instead = {name: value for name, value in less.body.items() if value != chat.body.get(name)}
            if without or instead:
                yield _Milder(words, models, without, instead)

    async def _learn(self, model: str) -> Profile:
        """How to speak of ``model``, and what is known of it; a server that does not answer is not waited for long."""
        return self._profile(model, await self._acquaintance.facts(model))

    def _profile(self, model: str, facts: Facts) -> Profile:
        manner, known = self._manner, self._acquaintance.last
        family = manner.dialect or (known.dialect if known is not None else DIALECTS[self._speech.unknown])
        return Profile.of(model, family, facts, manner.cells, manner.window)

    async def _recognise(self) -> Recognised:
        target = await self._locate()
        return await self._speech.recognise(self._client, target, self._headers(target), self._manner.dialect)

    def _described(self, found: Recognised) -> str:
        return in_words(found, (self._manner.dialect or found.dialect).name)

    @staticmethod
    def _headers(target: Target) -> dict[str, str]:
        headers = {"content-type": "application/json", "accept": "text/event-stream, application/json"}
        return headers | {"authorization": f"Bearer {target.key.reveal()}"} if target.key else headers


def _counted(body: Mapping[str, Any]) -> dict[str, Any]:
    """What of a request is its prompt, or decides how it is rendered: the key under which its count is remembered."""
    return {name: value for name, value in body.items() if name not in _UNCOUNTED}
