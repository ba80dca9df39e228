"""The real llama.cpp behind the proxy through its own Responses API: text, calls, counts, and cancelling."""

import json
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest
from attrs import frozen

from tests.e2e.daemon import Daemon, running, wait_until
from tests.e2e.test_llama_tools import FISH, PARIS, TEMPLATE, WEATHER, Ask, either_way, llama, message_of, usage
from tests.stream_checker import check_error

pytestmark = pytest.mark.model

BACKENDS = """
[models]
able = "able/tiny"
plain = "plain/tiny"

[backends.able]
provider = "responses"
base_url = "ABLE"
api_key = "secret"

[backends.plain]
provider = "responses"
base_url = "PLAIN"
api_key = "secret"
"""
#: Seconds for a slot to be free again.
PATIENCE = 5.0


@frozen
class Shore:
    """The proxy, and the address of the server with the model's own template."""

    daemon: Daemon
    plain: str

    def busy(self) -> bool:
        """Whether that server generates."""
        place = urlsplit(self.plain)
        connection = HTTPConnection(str(place.hostname), place.port, timeout=30)
        connection.request("GET", "/slots", headers={"authorization": "Bearer secret"})
        return any(slot["is_processing"] for slot in json.loads(connection.getresponse().read()))


@pytest.fixture(scope="module")
def shore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shore]:
    folder = tmp_path_factory.mktemp("proxy")
    with llama(TEMPLATE.read_text("utf-8")) as able, llama("") as plain:
        (folder / "claudeproxy.toml").write_text(BACKENDS.replace("ABLE", able).replace("PLAIN", plain))
        with running(folder, ["--config=claudeproxy.toml"]) as daemon:
            yield Shore(daemon, plain)


def body(messages: Any, model: str = "plain", **more: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 40, "temperature": 0, "messages": messages, **more}


HELLO = [{"role": "user", "content": "Say hello."}]


@either_way
def test_text(shore: Shore, ask: Ask) -> None:
    """Text comes, with the counts that the server counted, and the prompt is counted alike before."""
    checked = ask(shore.daemon, body(HELLO, system="Be kind."))
    assert checked.text.strip()
    counted = shore.daemon.json(
        "POST", "/v1/messages/count_tokens", {"model": "plain", "messages": HELLO, "system": "Be kind."}
    )
    assert usage(checked)[0] == counted["input_tokens"]
    assert 0 < message_of(checked)["usage"]["output_tokens"] <= 40


@either_way
def test_limit(shore: Shore, ask: Ask) -> None:
    """An answer that ends at its limit says so, though llama.cpp calls it completed."""
    question = [{"role": "user", "content": "Tell me a long story of the sea."}]
    checked = ask(shore.daemon, body(question, max_tokens=5))
    assert message_of(checked)["stop_reason"] == "max_tokens"
    assert message_of(checked)["usage"]["output_tokens"] == 5


@either_way
def test_a_call(shore: Shore, ask: Ask) -> None:
    """A call that is demanded is parsed, and the next turn takes its result."""
    offer: dict[str, Any] = {"tools": [WEATHER, FISH], "tool_choice": {"type": "tool", "name": "get_weather"}}
    checked = ask(shore.daemon, body(PARIS, "able", **offer))
    [call] = checked.calls
    assert (call["name"], [*call["input"]]) == ("get_weather", ["city"])
    assert message_of(checked)["stop_reason"] == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "Sunny."}
    turns = [*PARIS, {"role": "assistant", "content": checked.content}, {"role": "user", "content": [result]}]
    again = ask(shore.daemon, body(turns, "able", **offer))
    assert usage(again)[0] > usage(checked)[0]
    assert [each["name"] for each in again.calls] == ["get_weather"]


def test_stop_sequence(shore: Shore) -> None:
    """A stop sequence, which the API does not know, ends the answer all the same, and frees the slot."""
    question = [{"role": "user", "content": "Count from 1 to 50 with commas."}]
    first = shore.daemon.json("POST", "/v1/messages", body(question))["content"][0]["text"]
    stop = first[len(first) // 2 : len(first) // 2 + 3]
    found = shore.daemon.json("POST", "/v1/messages", body(question, max_tokens=2000, stop_sequences=[stop]))
    assert (found["stop_reason"], found["stop_sequence"]) == ("stop_sequence", stop)
    assert found["content"][0]["text"] == first[: first.index(stop)]
    wait_until("a free slot", PATIENCE, lambda: not shore.busy())


@pytest.mark.parametrize("streaming", [True, False])
def test_cancel(shore: Shore, streaming: bool) -> None:
    """A client that goes away while the model speaks frees its slot, whether it wanted a stream or not."""
    question = [{"role": "user", "content": "Tell me a very long story of the sea and of all its ships."}]
    connection = shore.daemon.ask("POST", "/v1/messages", body(question, max_tokens=3000, stream=streaming))
    wait_until("a busy slot", PATIENCE, shore.busy)
    if streaming:
        connection.getresponse().read(400)
    connection.close()
    wait_until("a free slot", PATIENCE, lambda: not shore.busy())


def test_cancel_while_it_reads(shore: Shore) -> None:
    """A client that goes away while the prompt is still being read frees the slot, too."""
    story = " ".join(f"The ship number {number} sailed to the north." for number in range(280))
    connection = shore.daemon.ask("POST", "/v1/messages", body([{"role": "user", "content": story}], stream=True))
    wait_until("a busy slot", PATIENCE, shore.busy)
    left = time.monotonic()
    connection.close()
    wait_until("a free slot", PATIENCE, lambda: not shore.busy())
    assert time.monotonic() - left < PATIENCE


def test_overflow(shore: Shore) -> None:
    """A prompt that is too long is told in the words that make Claude Code compact."""
    answer = shore.daemon.asked("POST", "/v1/messages", body([{"role": "user", "content": "fish " * 6000}]))
    seen = check_error(json.loads(answer.read()), answer.status)
    assert answer.status == 400 and seen.message.startswith("prompt is too long: ")
