"""Chat Completions: every OpenAI-compatible server, and the embedded model."""

from collections.abc import Callable, Mapping
from typing import Any

from claudeproxy.backends.client import BackendClient, Target
from claudeproxy.backends.counting import count_on_llama, count_on_vllm
from claudeproxy.backends.generation import Machine
from claudeproxy.backends.recognition import Recognised, recognise
from claudeproxy.backends.speech import Headers
from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.documents import Papers
from claudeproxy.model.kinds import frozen
from claudeproxy.translate.chat_request import to_chat, without_thinking
from claudeproxy.translate.chat_stream import ChatStream
from claudeproxy.translate.dialects import Dialect
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.translation import Policy, Translation


@frozen
class ChatSpeech:
    """`backends.speech.Speech` for Chat Completions."""

    path: str = "/chat/completions"
    unknown: str = "generic"

    def translate(
        self,
        request: MessagesRequest,
        model: str,
        dialect: Dialect,
        policy: Policy,
        papers: Papers,
        session: str,
    ) -> Translation:
        return to_chat(request, model, dialect, policy, papers, session)

    def without_thinking(self, translation: Translation) -> Translation:
        return without_thinking(translation)

    def without_level(self, translation: Translation) -> Translation:
        return translation  # no such server tells the two refusals apart

    def machine(self, reply: Reply, expected: Expected, unique: Callable[[], str]) -> Machine:
        return ChatStream(reply, expected, unique)

    async def recognise(
        self, client: BackendClient, target: Target, headers: Headers, sure: Dialect | None
    ) -> Recognised:
        return await recognise(client, target, headers, sure)

    def counts(self, dialect: Dialect) -> bool:
        return bool(dialect.counting)

    async def count(
        self, client: BackendClient, target: Target, headers: Headers, body: Mapping[str, Any], dialect: Dialect
    ) -> int | None:
        match dialect.counting:
            case "llama.cpp":
                return await count_on_llama(client, target, headers, body)
            case "vllm":
                return await count_on_vllm(client, target, headers, body)
        return None
