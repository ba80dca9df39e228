"""Makes backends out of settings, and keeps over a reload those whose settings stayed."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from attrs import evolve, field
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from claudeproxy.backends.chat import ChatSpeech
from claudeproxy.backends.client import BackendClient, Target
from claudeproxy.backends.documents import DocumentReader
from claudeproxy.backends.interfaces import Backend, Server
from claudeproxy.backends.patience import Limits
from claudeproxy.backends.speech import Speech
from claudeproxy.backends.tally import Tally
from claudeproxy.backends.translating import Manner, TranslatingBackend
from claudeproxy.backends.unusable import UnusableModel
from claudeproxy.model.kinds import define
from claudeproxy.routing.sessions import Sessions
from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.routing.table import ModelTable
from claudeproxy.service.observers import Logs
from claudeproxy.translate.dialects import DIALECTS, Dialect, dialect_of_host
from claudeproxy.translate.learning import Learned
from claudeproxy.translate.prompt_size import PromptScale
from claudeproxy.translate.translation import Policy
from claudeproxy.web.live import Live

if TYPE_CHECKING:
    from claudeproxy.backends.tokenizer import TokenizerFile


def check_embedded(settings: Settings) -> None:
    """Whether the embedded models that the settings name can be served. Raises `backends.unusable.UnusableModel`."""
    for each in settings.backends:
        if each.provider == "local":
            from claudeproxy.backends.gguf import check_gguf, find_gguf

            try:
                check_gguf(find_gguf(each.gguf), each.window)
            except UnusableModel as fault:
                if not fault.setting:
                    raise
                name = f"backends.{each.name}.{fault.setting} (LOCAL_{fault.setting.upper()})"
                raise UnusableModel(f"{name}: {fault}", fault.setting) from None


def check_tokenizers(settings: Settings) -> None:
    """Whether the tokenizer files that the settings name can be used. Raises `backends.unusable.BadTokenizer`."""
    for backend in settings.backends:
        for model, path in backend.tokenizers:
            from claudeproxy.backends.tokenizer import read_vocabulary

            read_vocabulary(Path(path), f"backends.{backend.name}.tokenizers.{model}")


def check_files(settings: Settings) -> None:
    """Whether the files that the settings name can be used. Raises `backends.unusable.UnusableModel` or
    `backends.unusable.BadTokenizer`."""
    check_embedded(settings)
    check_tokenizers(settings)


def _nothing() -> None:
    """Nobody wants to know."""


@define(eq=False)
class Workshop:
    """The one place that knows which class belongs to which provider."""

    _reactor: Any
    _logs: Logs
    _make_key: Callable[[], str]
    _new_id: Callable[[], str]
    #: What was learned of models' counts; it outlives the backends.
    learned: Learned = field(factory=Learned, init=False)
    #: Called when something was learned.
    changed: Callable[[], None] = field(default=_nothing, init=False)
    #: How often requests were sent again, by the backend's name; it only grows.
    resends: Counter[str] = field(factory=Counter, init=False)
    _sessions: Sessions = field(factory=Sessions, init=False)
    _scale: PromptScale = field(factory=PromptScale, init=False)
    _documents: DocumentReader = field(factory=lambda: DocumentReader(deferToThread), init=False)
    _made: dict[BackendSettings, Backend] = field(factory=dict, init=False)

    @property
    def verdicts(self) -> Mapping[str, int]:
        """How often each cause was found of what became of a prompt cache."""
        return self._sessions.tally

    def live(self, settings: Settings) -> Live:
        """What these settings describe. New backends are made, not started."""
        backends = {each.name: self._backend(each) for each in settings.backends}
        return Live(settings, ModelTable.of(settings), backends)

    def retire(self, live: Live) -> list[Backend]:
        """The backends that ``live`` has no use for any more; they are forgotten here."""
        kept = set(live.settings.backends)
        retired = [each for each in self._made if each not in kept]
        return [self._made.pop(each) for each in retired]

    def all(self) -> list[Backend]:
        """Every backend that was made and not retired."""
        return list(self._made.values())

    def _backend(self, settings: BackendSettings) -> Backend:
        if settings not in self._made:
            makers = {"local": self._embedded, "anthropic": self._passing}
            self._made[settings] = makers.get(settings.provider, self._chat)(settings)
        return self._made[settings]

    def _chat(self, settings: BackendSettings) -> Backend:
        target = Target(settings.base_url, settings.api_key)

        async def locate() -> Target:
            return target

        if settings.provider == "ollama":
            dialect = None  # it is asked of its models
        elif settings.dialect == "auto":
            dialect = dialect_of_host(urlsplit(settings.base_url).hostname or "")
        else:
            dialect = DIALECTS[settings.dialect]
        place = f"{settings.name} at {settings.base_url}"
        return self._speaking(settings, place, locate, self._manner(settings, dialect))

    # The ways of speaking that not every setup needs are imported where one is made: a megabyte of memory.

    def _passing(self, settings: BackendSettings) -> Backend:
        from claudeproxy.backends.passing import PassThrough, Place

        root = settings.base_url.removesuffix("/v1")
        place = Place(root, settings.api_key, settings.credentials == "client")
        return PassThrough(
            settings.name,
            place,
            settings.repair,
            settings.context_window,
            _limits(settings),
            self._tally(settings, self._logs.logger("backends")),
            self._client(settings),
            self._reactor,
            self._new_id,
            self._logs.logger("backends"),
        )

    def _embedded(self, settings: BackendSettings) -> Backend:
        from claudeproxy.backends.embedded import EmbeddedModel
        from claudeproxy.backends.gguf import PACKAGED_SAMPLING, find_gguf

        gguf: Path = find_gguf(settings.gguf)
        log = self._logs.logger("embedded")
        model = EmbeddedModel(
            gguf,
            self._reactor,
            self._reactor,
            self._make_key,
            settings.window,
            sampling={} if settings.gguf else PACKAGED_SAMPLING,
            log=log,
        )

        async def locate() -> Target:
            address = await model.ready()
            return Target(f"http://{address.host}:{address.port}/v1", address.key)

        manner = evolve(self._manner(settings, DIALECTS["llama.cpp"]), only_model=model.alias)
        return self._speaking(settings, f"the embedded model {model.alias}", locate, manner, model)

    def _manner(self, settings: BackendSettings, dialect: Dialect | None) -> Manner:
        policy = Policy(settings.server_tools == "drop", settings.unseen_images == "reject")
        return Manner(
            _limits(settings),
            dialect,
            dict(settings.cells),
            policy,
            window=settings.context_window,
            affinity_header="" if settings.affinity_header == "none" else settings.affinity_header,
        )

    def _tally(self, settings: BackendSettings, log: Logger) -> Tally:
        files = dict(self._tokenizers(settings)) if settings.tokenizers else {}
        return Tally(settings.name, self.learned, self._scale, files, lambda: self.changed(), log=log)

    def _tokenizers(self, settings: BackendSettings) -> "Iterator[tuple[str, TokenizerFile]]":
        from claudeproxy.backends.tokenizer import TokenizerFile

        for model, path in settings.tokenizers:
            yield model, TokenizerFile(Path(path), f"backends.{settings.name}.tokenizers.{model}", deferToThread)

    def _speaking(
        self,
        settings: BackendSettings,
        place: str,
        locate: Callable[[], Awaitable[Target]],
        manner: Manner,
        process: Server | None = None,
    ) -> Backend:
        log = self._logs.logger("backends")
        return TranslatingBackend(
            settings.name,
            place,
            _speech(settings),
            self._client(settings),
            locate,
            manner,
            self._documents,
            self._tally(settings, log),
            self._sessions,
            self._reactor,
            self._new_id,
            log,
            process,
        )

    def _client(self, settings: BackendSettings) -> BackendClient:
        timeout = settings.connect_timeout_ms / 1000
        return BackendClient.over_network(settings.name, self._reactor, timeout, self.resends, settings.api_key)


def _limits(settings: BackendSettings) -> Limits:
    return Limits(settings.timeout_ms / 1000, settings.first_token_ms / 1000, settings.total_ms / 1000)


def _speech(settings: BackendSettings) -> Speech:
    match settings.provider:
        case "ollama":
            from claudeproxy.backends.ollama import OllamaSpeech

            return OllamaSpeech(settings.num_ctx, settings.keep_alive)
        case "responses":
            from claudeproxy.backends.responses import ResponsesSpeech

            return ResponsesSpeech()
        case _:
            return ChatSpeech()
