"""The Responses API: OpenAI's own, and that of the servers that follow it."""

from collections.abc import Callable, Mapping
from typing import Any

from attrs import evolve

from claudeproxy.backends.client import BackendClient, Target
from claudeproxy.backends.generation import Machine
from claudeproxy.backends.recognition import Recognised, recognise
from claudeproxy.backends.speech import Headers
from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.documents import Papers
from claudeproxy.model.kinds import frozen
from claudeproxy.translate.dialects import DIALECTS, Dialect
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.responses_request import to_responses, without_thinking
from claudeproxy.translate.responses_stream import ResponsesStream
from claudeproxy.translate.translation import Policy, Translation
from claudeproxy.wire.json import encode

#: Of a request's fields those that are part of its prompt, or decide how it is rendered (PROTOCOL 6.2). OpenAI refuses
#: a question for a count that has any other.
_COUNTED = ("model", "input", "tools", "tool_choice", "parallel_tool_calls", "reasoning", "text", "truncation")
#: llama.cpp's template has variables, too.
_COUNTED_BY_LLAMA = (*_COUNTED, "chat_template_kwargs")


@frozen
class ResponsesSpeech:
    """`backends.speech.Speech` for the Responses API."""

    path: str = "/responses"
    unknown: str = "openai"

    def translate(
        self,
        request: MessagesRequest,
        model: str,
        dialect: Dialect,
        policy: Policy,
        papers: Papers,
        session: str,
    ) -> Translation:
        return to_responses(request, model, dialect, policy, papers, session)

    def without_thinking(self, translation: Translation) -> Translation:
        return without_thinking(translation)

    def without_level(self, translation: Translation) -> Translation:
        return translation  # no such server tells the two refusals apart

    def machine(self, reply: Reply, expected: Expected, unique: Callable[[], str]) -> Machine:
        return ResponsesStream(reply, expected, unique)

    async def recognise(
        self, client: BackendClient, target: Target, headers: Headers, sure: Dialect | None
    ) -> Recognised:
        recognised = await recognise(client, target, headers, sure)
        if sure is None and recognised.dialect.name == "generic":
            return evolve(recognised, dialect=DIALECTS[self.unknown])
        return recognised

    def counts(self, dialect: Dialect) -> bool:
        return dialect.name in ("openai", "llama.cpp")

    async def count(
        self, client: BackendClient, target: Target, headers: Headers, body: Mapping[str, Any], dialect: Dialect
    ) -> int | None:
        if not self.counts(dialect):
            return None
        counted = _COUNTED if dialect.name == "openai" else _COUNTED_BY_LLAMA
        asked = {name: body[name] for name in counted if name in body}
        status, said = await client.ask(f"{target.base}/responses/input_tokens", encode(asked), headers)
        if status == 200 and isinstance(said, dict) and isinstance(said.get("input_tokens"), int):
            return int(said["input_tokens"])
        return None
