"""Backends that are translated to: what all of them share, whatever they speak."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import define, evolve, field, frozen
from twisted.application.service import IService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IResponse

from claudeproxy.backends.client import LONGEST_ERROR, BackendClient, Target, read_body
from claudeproxy.backends.documents import DocumentReader
from claudeproxy.backends.generation import Generation
from claudeproxy.backends.interfaces import Count, Deliver, Prepared
from claudeproxy.backends.recognition import ModelFacts, Recognised
from claudeproxy.backends.shared import Shared
from claudeproxy.backends.speech import Speech
from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.problems import Refusal, invalid_request
from claudeproxy.translate.composer import Expected
from claudeproxy.translate.dialects import DIALECTS, Dialect
from claudeproxy.translate.estimate import prompt_tokens
from claudeproxy.translate.failures import problem_from_answer
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.translation import STRICT, Policy, Translation
from claudeproxy.translate.web_search import is_web_search, no_results
from claudeproxy.wire.json import encode

#: What servers say of a model that cannot think, if they are asked to make it (LM Studio, Ollama), and what older
#: Ollamas say of a model that cannot be told how much.
_NO_THINKING = re.compile(
    rb"does not support (?:thinking|reasoning)|think value .{0,40} is not supported|invalid think value", re.IGNORECASE
)


#: A request waits so long, in seconds, for its server to say what it is; then it is taken for one that does not say.
RECOGNITION_TIME = 1.5


@frozen
class _Context:
    expected: Expected
    #: The same body without the wish to think, where there was one.
    thoughtless: bytes | None
    #: A request that needs no backend.
    search: MessagesRequest | None


@frozen
class Manner:
    """How one backend is talked to: the settings' part of it."""

    #: The longest silence between two bytes after the first token, in seconds.
    patience: float
    #: The dialect that is sure; None to ask the server.
    dialect: Dialect | None = None
    cells: Mapping[str, Any] = field(factory=dict)
    policy: Policy = STRICT
    #: For a server that has but one model and answers to any name: that model's name.
    only_model: str = ""


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
    _clock: IReactorTime
    _unique: Callable[[], str]
    _log: Logger
    #: The service that runs the server, if it is ours to run.
    _process: IService | None = None
    _recognition: Shared[Recognised] = field(init=False)
    #: The models that have refused to think.
    _thoughtless: set[str] = field(factory=set, init=False)
    #: What the server told of its models, one by one.
    _models: dict[str, Shared[ModelFacts]] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._recognition = Shared(self._recognise, self._clock, RECOGNITION_TIME)

    async def prepare(self, request: MessagesRequest, model: str, session: str) -> Prepared:
        model = self._manner.only_model or model
        dialect, window = await self._learn(model)
        if is_web_search(request):
            words = await self._translated(evolve(request, tools=(), tool_choice=None), model, dialect, session)
            estimate = prompt_tokens(words.body, len(encode(words.body)))
            return Prepared(b"", model, (), estimate, _Context(Expected(self.name, estimate), None, request))
        chat = await self._translated(request, model, dialect, session)
        if model in self._thoughtless:
            chat = self._speech.without_thinking(chat)
        body = encode(chat.body)
        estimate = prompt_tokens(chat.body, len(body))
        expected = Expected.of(self.name, estimate, window, request, chat, dialect)
        thoughtless = None
        if dialect.may_refuse_thinking:
            bare = self._speech.without_thinking(chat)
            thoughtless = encode(bare.body) if bare != chat else None
        return Prepared(body, model, chat.dropped, estimate, _Context(expected, thoughtless, None))

    def generate(self, prepared: Prepared, message_id: str, model: str, deliver: Deliver) -> Generation:
        context: _Context = prepared.context
        reply = Reply(message_id, model)
        machine = self._speech.machine(reply, context.expected, self._unique)
        generation = Generation(self.name, machine, deliver, self._clock, self._manner.patience, self._log)
        if context.search is None:
            generation.start(self._send(prepared.model, prepared.body, context.thoughtless))
        else:
            generation.conclude(no_results(context.search, reply, prepared.prompt_tokens, self._unique()))
        return generation

    async def count(self, request: MessagesRequest, model: str) -> Count:
        model = self._manner.only_model or model
        dialect, _ = await self._learn(model)
        # What a backend reads does not depend on how long its answer may be.
        asked = evolve(request, max_tokens=None, stop_sequences=())
        chat = await self._translated(asked, model, dialect, "")
        try:
            target = await self._locate()
            exact = await self._speech.count(self._client, target, self._headers(target), chat.body, dialect)
        except Refusal:
            exact = None  # a count is never worth an error: the estimate below serves
        if exact is not None:
            return Count(exact, "exact", model)
        return Count(prompt_tokens(chat.body, len(encode(chat.body))), "estimate", model)

    async def models(self) -> Sequence[str]:
        recognised = await self._recognition.get()
        return recognised.models if recognised is not None else ()

    def describe(self) -> str:
        return self._place

    def start(self) -> None:
        if self._process is not None:
            self._process.startService()
        # Whether it answers is of no importance yet: who needs to know asks again.
        Deferred.fromCoroutine(self._recognition.get()).addErrback(self._log_failure)

    async def close(self) -> None:
        await self._client.close()
        if self._process is not None:
            await maybeDeferred(self._process.stopService)

    async def _translated(self, request: MessagesRequest, model: str, dialect: Dialect, session: str) -> Translation:
        papers = await self._documents.read(request, with_images=dialect.images == "yes")
        try:
            return self._speech.translate(request, model, dialect, self._manner.policy, papers, session)
        except RecursionError:
            raise Refusal(invalid_request("messages: nested too deeply")) from None

    async def _send(self, model: str, body: bytes, thoughtless: bytes | None) -> IResponse:
        target = await self._locate()
        url, headers = target.base + self._speech.path, self._headers(target)
        response = await self._client.post(url, body, headers)
        if response.code != 400 or thoughtless is None:
            return response
        said = await read_body(response, LONGEST_ERROR)
        if not _NO_THINKING.search(said):
            raise Refusal(problem_from_answer(self.name, response.code, said))
        self._log.info("model {model} of {backend} cannot think; it is not asked again", model=model, backend=self.name)
        self._thoughtless.add(model)
        return await self._client.post(url, thoughtless, headers)

    async def _known(self) -> Recognised | None:
        """What the server told of itself; a host that is known by its name is not asked."""
        if self._manner.dialect is None or self._manner.dialect.counting == "llama.cpp":
            return await self._recognition.get()
        return None

    async def _learn(self, model: str) -> tuple[Dialect, int]:
        """How to speak of ``model``, and its window in tokens (0 if nobody knows).

        The dialect is the server's family, with what the server told of itself and of the model, with what the
        settings say of it: the last word.
        """
        known = await self._known()
        facts = await self._facts(known, model)
        dialect = self._manner.dialect or (known.dialect if known is not None else DIALECTS[self._speech.unknown])
        told = known.cells if known is not None else {}
        cells = {**told, **facts.cells, **self._manner.cells}
        dialect = evolve(dialect, **cells) if cells else dialect
        return dialect, dialect.num_ctx or facts.window or (known.window if known is not None else 0)

    async def _facts(self, known: Recognised | None, model: str) -> ModelFacts:
        """What the server told of ``model``, as far as it tells; asked until it is known."""
        if known is None or known.ask is None:
            return ModelFacts()
        found = await self._models.setdefault(
            model, Shared(partial(known.ask, model), self._clock, RECOGNITION_TIME)
        ).get()
        if found is None:  # a name that nobody knows is not worth the memory
            self._models.pop(model, None)
        return found or ModelFacts()

    async def _recognise(self) -> Recognised | None:
        try:
            target = await self._locate()
        except Refusal:
            return None
        recognised = await self._speech.recognise(self._client, target, self._headers(target))
        if recognised is not None:
            self._log.info(
                "backend {backend} speaks {dialect} and offers {models}",
                backend=self.name,
                dialect=(self._manner.dialect or recognised.dialect).name,
                models=", ".join(recognised.models) or "no list of models",
            )
        return recognised

    def _log_failure(self, failure: Failure) -> None:
        self._log.failure("asking backend {backend} what it is failed", failure=failure, backend=self.name)

    @staticmethod
    def _headers(target: Target) -> dict[str, str]:
        headers = {"content-type": "application/json", "accept": "text/event-stream, application/json"}
        return headers | {"authorization": f"Bearer {target.key}"} if target.key else headers
