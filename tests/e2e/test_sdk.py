"""Anthropic's own SDK for Python, today's and an old one, cannot tell the proxy from Anthropic."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.e2e.daemon import Daemon, clean_environment, running
from tests.e2e.parts import PARTS

pytestmark = pytest.mark.model

PROGRAM = Path(__file__).with_name("sdk_client.py")
NAMES = [f"claude-{name}" for name in ("opus-5", "sonnet-5", "haiku-5", "fable-5", "mythos-5")]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A proxy that wants a key, offers five names, and has a backend that is not there."""
    variables = {
        "CLAUDEPROXY_KEYS": "other, sesame",
        "MODEL_MAP_JSON": json.dumps({name: "m" for name in NAMES}),
        "PROVIDER": "openai",
        "PROVIDER_BASE_URL": "http://127.0.0.1:1/v1",
    }
    with running(tmp_path_factory.mktemp("keyed"), variables=variables) as daemon:
        yield daemon


@pytest.fixture(
    scope="module",
    params=[pytest.param("new", id="today's"), pytest.param("old", id="old", marks=pytest.mark.old_sdk)],
)
def seen(
    request: pytest.FixtureRequest, proxy: Daemon, keyed: Daemon, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the program saw, run by an interpreter with that SDK."""
    python = sys.executable if request.param == "new" else PARTS["old_sdk"].place
    assert python is not None
    home = tmp_path_factory.mktemp("client")
    done = subprocess.run(
        [python, str(PROGRAM), proxy.url, keyed.url, "sesame"],
        env=clean_environment(home),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert (said["version"] < "1") == (request.param == "old")
    return said


def test_create(seen: dict[str, Any]) -> None:
    """A message has text, a stop reason, usage, and the name that was asked for."""
    for message in (seen["create"], seen["stream"]):
        assert message["text"]
        assert message["stop_reason"] in ("end_turn", "max_tokens")
        assert message["model"] == "claude-opus-5-5"
        assert 0 < message["output"] <= 12


def test_stream(seen: dict[str, Any]) -> None:
    """A stream is the six events in their order, and its accumulated text is what was streamed."""
    assert seen["stream"]["streamed"] == seen["stream"]["text"]
    kinds = [kind for kind in seen["raw_stream"] if kind != "ping"]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}


def test_count(seen: dict[str, Any]) -> None:
    """The counted tokens are those that the message then cost."""
    assert seen["count"] == seen["create"]["prompt"] > 0


def test_models(seen: dict[str, Any]) -> None:
    """The models come in pages, in order, each of them once, and each can be asked for by its name."""
    if seen["version"] < "0.43":  # it knows nothing of models
        assert seen["models"] is None
        return
    assert seen["models"]["pages"] == [NAMES[:2], NAMES[2:4], NAMES[4:]]
    assert seen["models"]["all"] == NAMES
    assert seen["models"]["one"] == NAMES[0]


@pytest.mark.parametrize(
    ("case", "of_class", "status", "kind"),
    [
        ("no messages", "BadRequestError", 400, "invalid_request_error"),
        ("no such model", "NotFoundError", 404, "not_found_error"),
        ("no such path", "NotFoundError", 404, "not_found_error"),
        ("too long", "BadRequestError", 400, "invalid_request_error"),
        ("too long, streamed", "BadRequestError", 400, "invalid_request_error"),
        ("wrong key", "AuthenticationError", 401, "authentication_error"),
        ("backend away", "InternalServerError", 529, "overloaded_error"),
    ],
)
def test_errors(seen: dict[str, Any], case: str, of_class: str, status: int, kind: str) -> None:
    """Every failure arrives as the SDK's own class for it, with Anthropic's envelope and an id to report."""
    error = seen["errors"][case]
    assert of_class in error["classes"]
    assert error["status"] == status
    assert error["body"]["error"]["type"] == kind
    assert error["body"]["error"]["message"]
    assert error["request_id"].startswith("req_")
    if case.startswith("too long"):
        assert error["body"]["error"]["message"].startswith("prompt is too long: ")


def test_nobody_listens(seen: dict[str, Any]) -> None:
    """The program can tell an error of the proxy from a proxy that is not there."""
    assert "APIConnectionError" in seen["errors"]["nobody listens"]["classes"]


def test_asynchronous(proxy: Daemon, keyed: Daemon) -> None:
    """The asynchronous client streams, two requests at a time, counts, lists and fails alike."""
    messages: Any = [{"role": "user", "content": "Say hello."}]
    asked: Any = {"model": "claude-opus-5-5", "messages": messages}

    async def text(client: anthropic.AsyncAnthropic) -> str:
        async with client.messages.stream(max_tokens=12, **asked) as stream:
            streamed = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()
        assert streamed == "".join(block.text for block in final.content if block.type == "text")
        return streamed

    async def use() -> None:
        async with (
            anthropic.AsyncAnthropic(base_url=proxy.url, api_key="none", max_retries=0) as client,
            anthropic.AsyncAnthropic(base_url=keyed.url, auth_token="sesame", api_key=None, max_retries=0) as bearer,
        ):
            assert all(await asyncio.gather(text(client), text(client)))
            message = await client.messages.create(max_tokens=12, **asked)
            counted = await client.messages.count_tokens(**asked)
            usage = message.usage
            assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
            assert [model.id async for model in bearer.models.list(limit=3)] == NAMES
            with pytest.raises(anthropic.NotFoundError):
                await bearer.models.retrieve("nobody")
            with pytest.raises(anthropic.BadRequestError):
                await client.messages.create(max_tokens=-1, **asked)

    asyncio.run(use())
