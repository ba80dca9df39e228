"""Ollama, in its own words: ``/api/chat``, and what ``/api/tags`` and ``/api/show`` tell (PROTOCOL 4.8)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from claudeproxy.backends.client import BackendClient, Target
from claudeproxy.backends.generation import Machine
from claudeproxy.backends.ollama_facts import UNKNOWN_WINDOW, ask_of_model, names
from claudeproxy.backends.profile import NOTHING, Facts
from claudeproxy.backends.recognition import Recognised, ready
from claudeproxy.backends.speech import Headers
from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.documents import Papers
from claudeproxy.model.kinds import frozen
from claudeproxy.translate.dialects import DIALECTS, Dialect
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.ollama_request import to_ollama, without_level, without_thinking
from claudeproxy.translate.ollama_stream import OllamaStream
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.translation import Policy, Translation


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

    def without_level(self, translation: Translation) -> Translation:
        return without_level(translation)

    def machine(self, reply: Reply, expected: Expected, unique: Callable[[], str]) -> Machine:
        return OllamaStream(reply, expected, unique)

    async def recognise(
        self, client: BackendClient, target: Target, headers: Headers, sure: Dialect | None
    ) -> Recognised:
        status, listing = await client.get(f"{target.base}/api/tags", headers)
        ready(client, status)
        models = {name: NOTHING for name in names(listing)} if status == 200 else {}
        ask = partial(ask_of_model, client, target.base, headers, self.num_ctx)
        window = Facts(window=self.num_ctx or UNKNOWN_WINDOW)
        return Recognised(DIALECTS["ollama"], models, window, ask=ask)

    def counts(self, dialect: Dialect) -> bool:
        return False  # PROTOCOL 6.2: Ollama cannot count

    async def count(
        self, client: BackendClient, target: Target, headers: Headers, body: Mapping[str, Any], dialect: Dialect
    ) -> int | None:
        return None
