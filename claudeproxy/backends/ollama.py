"""Ollama, in its own words: ``/api/chat``, and what ``/api/tags`` and ``/api/show`` tell (PROTOCOL 4.8)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from attrs import frozen

from claudeproxy.backends.client import BackendClient, Target
from claudeproxy.backends.generation import Machine
from claudeproxy.backends.recognition import ModelFacts, Recognised
from claudeproxy.backends.speech import Headers
from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.documents import Papers
from claudeproxy.model.problems import Refusal
from claudeproxy.translate.composer import Expected
from claudeproxy.translate.dialects import DIALECTS, Dialect
from claudeproxy.translate.ollama_request import to_ollama, without_thinking
from claudeproxy.translate.ollama_stream import OllamaStream
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.translation import Policy, Translation
from claudeproxy.wire.json import encode

_LENGTH = ".context_length"


@frozen
class OllamaSpeech:
    """`backends.speech.Speech` for Ollama."""

    #: The window to ask for, in tokens; never more than the model's own, and 0 for just that.
    num_ctx: int
    #: How long the model stays loaded after an answer: a duration, a number of seconds, or "" for Ollama's own.
    keep_alive: str = ""
    path: str = "/api/chat"
    unknown: str = "ollama"

    def translate(
        self,
        request: MessagesRequest,
        model: str,
        dialect: Dialect,
        policy: Policy,
        papers: Papers,
        session: str,
    ) -> Translation:
        num_ctx = dialect.num_ctx or self.num_ctx or UNKNOWN_WINDOW
        return to_ollama(request, model, dialect, num_ctx, self.keep_alive, policy, papers)

    def without_thinking(self, translation: Translation) -> Translation:
        return without_thinking(translation)

    def machine(self, reply: Reply, expected: Expected, unique: Callable[[], str]) -> Machine:
        return OllamaStream(reply, expected, unique)

    async def recognise(self, client: BackendClient, target: Target, headers: Headers) -> Recognised | None:
        try:
            status, listing = await client.get(f"{target.base}/api/tags", headers)
        except Refusal:
            return None
        models = tuple(_names(listing)) if status == 200 else ()
        window = self.num_ctx or UNKNOWN_WINDOW
        return Recognised(DIALECTS["ollama"], models, window, ask=partial(self._show, client, target, headers))

    async def count(
        self, client: BackendClient, target: Target, headers: Headers, body: Mapping[str, Any], dialect: Dialect
    ) -> int | None:
        return None  # PROTOCOL 6.2: Ollama cannot count

    async def _show(self, client: BackendClient, target: Target, headers: Headers, model: str) -> ModelFacts | None:
        try:
            status, said = await client.ask(f"{target.base}/api/show", encode({"model": model}), headers)
        except Refusal:
            return None
        return self._facts(said) if status == 200 and isinstance(said, dict) else None

    def _facts(self, said: Mapping[str, Any]) -> ModelFacts:
        length = _length(said.get("model_info"))
        window = min(filter(None, (self.num_ctx, length)), default=UNKNOWN_WINDOW)
        cells: dict[str, Any] = {"num_ctx": window}
        able = said.get("capabilities")
        if isinstance(able, list) and able:  # servers before 0.6.4 do not tell
            cells["images"] = "yes" if "vision" in able else "no"
            if "thinking" not in able:
                cells["thinking"] = "none"
        return ModelFacts(cells, window)


#: The window of a model that does not tell its own, where the settings want just that.
UNKNOWN_WINDOW = 32_768


def _names(listing: Any) -> list[str]:
    models = listing.get("models") if isinstance(listing, dict) else None
    entries = [each for each in models if isinstance(each, dict)] if isinstance(models, list) else []
    names = [each.get("model") or each.get("name") for each in entries]
    return [name for name in names if isinstance(name, str)]


def _length(info: Any) -> int:
    """``qwen3.context_length`` or the like, under the architecture's name; 0 if it is not told."""
    found = [value for key, value in info.items() if key.endswith(_LENGTH)] if isinstance(info, dict) else []
    return max((value for value in found if type(value) is int and value > 0), default=0)
