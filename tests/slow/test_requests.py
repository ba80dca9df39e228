"""Damaged requests: whatever a client sends becomes a body for every backend, or a clean 400 (issue 3)."""

import json
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings

from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.problems import Refusal
from claudeproxy.translate.chat_request import to_chat
from claudeproxy.translate.dialects import CHAT_DIALECTS, DIALECTS, Dialect
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.learning import Learned
from claudeproxy.translate.ollama_request import to_ollama
from claudeproxy.translate.prompt_size import PromptScale
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.responses_request import to_responses
from claudeproxy.translate.translation import Policy, Translation
from claudeproxy.translate.web_search import is_web_search, no_results
from claudeproxy.wire.events import stream_bytes
from claudeproxy.wire.json import decode, encode
from claudeproxy.wire.requests import parse_count, parse_messages
from tests.fakes.scripts import json_bytes
from tests.slow.chance import bent_bytes, bent_value, try_out
from tests.strategies import text_requests
from tests.stream_checker import check_stream
from tests.translate.sdk_types import requests

pytestmark = pytest.mark.slow

RECORDINGS = Path(__file__).parent.parent / "recordings"
#: Seconds for one request and one backend; a request of a few kilobytes takes a thousandth.
LONGEST = 2.0


def collected() -> list[dict[str, Any]]:
    """Requests to be damaged: those that were recorded, and such as the official types allow."""
    found = [json.loads(path.read_text("utf-8"))["body"] for path in sorted(RECORDINGS.glob("*.json"))]

    @seed(1)
    @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(requests(), text_requests())
    def collect(any_request: dict[str, Any], text_request: dict[str, Any]) -> None:
        found.extend((any_request, text_request))

    collect()
    return found


def translated(chance: Random, request: MessagesRequest) -> tuple[Translation, Dialect]:
    """The request for some backend."""
    policy = Policy(chance.random() < 0.5, chance.random() < 0.5)
    match chance.randrange(4):
        case 0:
            dialect = DIALECTS["ollama"]
            return to_ollama(request, request.model, dialect, 4096, chance.choice(("", "5m", "-1")), policy), dialect
        case 1:
            dialect = CHAT_DIALECTS[chance.choice(("openai", "llama.cpp", "generic", "lmstudio"))]
            return to_responses(request, request.model, dialect, policy, session="s"), dialect
        case _:
            dialect = CHAT_DIALECTS[chance.choice(sorted(CHAT_DIALECTS))]
            return to_chat(request, request.model, dialect, policy, session="s"), dialect


def attempt_with(bases: list[dict[str, Any]]) -> Any:
    def attempt(chance: Random) -> None:
        base = chance.choice(bases)
        body = json_bytes(bent_value(chance, base, [chance.choice(bases)]))
        if chance.random() < 0.1:
            body = bent_bytes(chance, body)
        began = time.monotonic()
        try:
            request = (parse_messages if chance.random() < 0.8 else parse_count)(body).request
            found, dialect = translated(chance, request)
        except Refusal as refusal:
            problem = refusal.problem
            assert 400 <= problem.status < 500, problem
            assert problem.message and len(problem.message) < 5000, problem
            json_bytes(problem.message).decode()
            return
        except Exception as fault:  # what the official types allow depends on their release: so tell the request
            raise AssertionError(f"{fault!r} for {body!r}") from fault
        sent = encode(found.body)
        assert isinstance(decode(sent), dict)
        assert all(isinstance(each, str) for each in found.dropped)
        tokens = Learned().estimate("fake", "m", PromptScale().measure(found.body, dialect.name)).tokens
        assert tokens >= 0
        Expected.of("fake", tokens, 4096, request, found, dialect)
        if is_web_search(request):
            check_stream(stream_bytes(no_results(request, Reply("msg_1", "m"), tokens, "u1"), "req_1"))
        assert time.monotonic() - began < LONGEST

    return attempt


def test_damaged_requests() -> None:
    """Reading and translating raises nothing but a refusal of the 400 kind, and takes no time worth naming."""
    bases = [base for base in collected() if base]
    effort = try_out("damaged requests", attempt_with(bases))
    print(effort)
