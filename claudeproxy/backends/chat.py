"""Backends that speak Chat Completions: every OpenAI-compatible server, and the embedded model."""

from collections.abc import Awaitable, Callable, Sequence

from attrs import define, evolve, field, frozen
from twisted.application.service import IService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IResponse

from claudeproxy.backends.client import BackendClient, Target
from claudeproxy.backends.counting import count_on_llama
from claudeproxy.backends.generation import Generation
from claudeproxy.backends.interfaces import Count, Deliver, Prepared
from claudeproxy.backends.recognition import Recognised, recognise
from claudeproxy.backends.shared import Shared
from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.problems import Refusal
from claudeproxy.translate.chat_request import to_chat
from claudeproxy.translate.chat_stream import ChatStream, Expected
from claudeproxy.translate.dialects import DIALECTS, Dialect
from claudeproxy.translate.estimate import prompt_tokens
from claudeproxy.translate.reply import Reply
from claudeproxy.wire.json import encode


@frozen
class _Context:
    expected: Expected
    dialect: Dialect


@define(eq=False)
class ChatBackend:
    """One OpenAI-compatible server. ``locate`` tells where it is: a child process moves when it is restarted."""

    name: str
    _client: BackendClient
    _locate: Callable[[], Awaitable[Target]]
    _clock: IReactorTime
    #: The longest silence between two bytes after the first token, in seconds.
    _patience: float
    _log: Logger
    #: The dialect of the settings; None to ask the server.
    _dialect: Dialect | None = None
    _place: str = ""
    #: For a server that has but one model and answers to any name: that model's name.
    _only_model: str = ""
    #: The service that runs the server, if it is ours to run.
    _process: IService | None = None
    _recognition: Shared[Recognised] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._recognition = Shared(self._recognise)

    async def prepare(self, request: MessagesRequest, model: str) -> Prepared:
        dialect = await self._spoken_dialect()
        model = self._only_model or model
        chat = to_chat(request, model, dialect)
        body = encode(chat.body)
        estimate = prompt_tokens(chat.body, len(body))
        expected = Expected(self.name, estimate, request.stop_sequences, silent=request.max_tokens == 0)
        return Prepared(body, model, chat.dropped, estimate, _Context(expected, dialect))

    def generate(self, prepared: Prepared, message_id: str, model: str, deliver: Deliver) -> Generation:
        machine = ChatStream(Reply(message_id, model), prepared.context.expected)
        generation = Generation(self.name, machine, deliver, self._clock, self._patience, self._log)
        generation.start(self._send(prepared.body))
        return generation

    async def count(self, request: MessagesRequest, model: str) -> Count:
        dialect = await self._spoken_dialect()
        # What a backend reads does not depend on how long its answer may be.
        chat = to_chat(evolve(request, max_tokens=None, stop_sequences=()), model, dialect)
        if dialect.counting == "llama.cpp":
            try:
                target = await self._locate()
                exact = await count_on_llama(self._client, target, self._headers(target), chat.body)
            except Refusal:
                exact = None  # a count is never worth an error: the estimate below serves
            if exact is not None:
                return Count(exact, "exact")
        return Count(prompt_tokens(chat.body, len(encode(chat.body))), "estimate")

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

    async def _send(self, body: bytes) -> IResponse:
        target = await self._locate()
        return await self._client.post(f"{target.base}/chat/completions", body, self._headers(target))

    async def _spoken_dialect(self) -> Dialect:
        if self._dialect is not None:
            return self._dialect
        recognised = await self._recognition.get()
        return recognised.dialect if recognised is not None else DIALECTS["generic"]

    async def _recognise(self) -> Recognised | None:
        try:
            target = await self._locate()
        except Refusal:
            return None
        recognised = await recognise(self._client, target, self._headers(target))
        if recognised is not None:
            self._log.info(
                "backend {backend} speaks {dialect} and offers {models}",
                backend=self.name,
                dialect=(self._dialect or recognised.dialect).name,
                models=", ".join(recognised.models) or "no list of models",
            )
        return recognised

    def _log_failure(self, failure: Failure) -> None:
        self._log.failure("asking backend {backend} what it is failed", failure=failure, backend=self.name)

    @staticmethod
    def _headers(target: Target) -> dict[str, str]:
        headers = {"content-type": "application/json", "accept": "text/event-stream, application/json"}
        return headers | {"authorization": f"Bearer {target.key}"} if target.key else headers
