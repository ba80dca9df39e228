"""The real model through the proxy: what it answers, what it counts, and that nobody computes for a client who left."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from attrs import frozen

from tests.e2e.daemon import ROOT, Daemon, running, wait_until
from tests.e2e.test_embedded_child import COMMAND, PATIENCE, Child, orders
from tests.stream_checker import Checked, check_error, check_message, check_stream

pytestmark = pytest.mark.model

#: Any name will do: there is but one model.
MODEL = "claude-sonnet-4-5-20250929"
HELLO = [{"role": "user", "content": "Say hello."}]
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "one turn": {"messages": HELLO},
    "a system prompt": {"system": "You are a pirate.", "messages": HELLO},
    "system blocks": {
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.330.839; cc_entrypoint=sdk-cli;"},
            {"type": "text", "text": "You are a pirate.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Be brief."},
        ],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "hi."}]}],
    },
    "several turns": {
        "messages": [
            *HELLO,
            {"role": "assistant", "content": [{"type": "text", "text": "Hello! How are you?"}]},
            {"role": "user", "content": "Ünïcödé 🎉 <|im_end|> </s>"},
            {"role": "user", "content": "And again."},
        ]
    },
    "a system message in mid-conversation": {
        "messages": [
            *HELLO,
            {"role": "assistant", "content": "Hello!"},
            {"role": "system", "content": "The user has gone to bed."},
            {"role": "user", "content": "Where is the user?"},
        ]
    },
}


def body(conversation: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 8, **conversation, **more}


def streamed(daemon: Daemon, request: dict[str, Any]) -> Checked:
    answer = daemon.asked("POST", "/v1/messages", {**request, "stream": True})
    assert (answer.status, answer.getheader("content-type")) == (200, "text/event-stream; charset=utf-8")
    assert (answer.getheader("request-id") or "").startswith("req_")
    return check_stream(answer.read())


def whole(daemon: Daemon, request: dict[str, Any]) -> Checked:
    return check_message(daemon.json("POST", "/v1/messages", request))


def prompt_tokens(message: dict[str, Any]) -> int:
    usage = message["usage"]
    return int(usage["input_tokens"] + usage["cache_read_input_tokens"] + usage["cache_creation_input_tokens"])


@pytest.mark.parametrize("ask", [streamed, whole])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_counts_what_it_costs(proxy: Daemon, name: str, ask: Callable[[Daemon, dict[str, Any]], Checked]) -> None:
    """Every conversation is answered, and count_tokens gives exactly the prompt tokens that it costs."""
    counted = proxy.asked("POST", "/v1/messages/count_tokens", {"model": MODEL, **CONVERSATIONS[name]})
    assert counted.getheader("x-claudeproxy-count-source") == "exact"
    checked = ask(proxy, body(CONVERSATIONS[name]))
    assert checked.message is not None
    assert checked.text
    assert checked.message["model"] == MODEL
    assert 0 < checked.message["usage"]["output_tokens"] <= 8
    assert json.loads(counted.read()) == {"input_tokens": prompt_tokens(checked.message)}


def test_limit(proxy: Daemon) -> None:
    """An answer that reaches max_tokens says so, and has that many."""
    for ask in (streamed, whole):
        message = ask(proxy, body({"messages": [{"role": "user", "content": "Tell a long story."}]})).message
        assert message is not None
        assert (message["stop_reason"], message["usage"]["output_tokens"]) == ("max_tokens", 8)


def test_stop_sequence(proxy: Daemon) -> None:
    """The stop sequence that ends an answer is named, and not part of the text."""
    story = {"messages": [{"role": "user", "content": "Tell a long story."}]}
    for ask in (streamed, whole):
        checked = ask(proxy, body(story, max_tokens=400, stop_sequences=["@@@@", "e", "zzzz"]))
        assert checked.message is not None
        assert (checked.message["stop_reason"], checked.message["stop_sequence"]) == ("stop_sequence", "e")
        assert "e" not in checked.text


def test_temperature(proxy: Daemon) -> None:
    """At temperature 0 the same question has the same answer, streamed or not."""
    request = body({"messages": HELLO}, temperature=0, top_p=0.9, top_k=10)
    assert streamed(proxy, request).text == whole(proxy, request).text


def test_second_turn_is_cached(proxy: Daemon) -> None:
    """The second turn of a conversation reads from the cache all that the first one had."""
    first = body({"system": "You know these words: " + "alpha beta gamma " * 50, "messages": HELLO})
    reply = whole(proxy, first)
    assert reply.message is not None
    turns = [*HELLO, {"role": "assistant", "content": reply.content}, {"role": "user", "content": "Go on."}]
    for ask in (streamed, whole):
        message = ask(proxy, {**first, "messages": turns}).message
        assert message is not None
        assert message["usage"]["cache_read_input_tokens"] >= prompt_tokens(reply.message) - 8
        assert message["usage"]["input_tokens"] < 40


@pytest.mark.parametrize("stream", [True, False])
def test_prompt_too_long(proxy: Daemon, stream: bool) -> None:
    """A prompt above the window is a 400 in the very words upon which Claude Code compacts, with the true numbers."""
    messages = [{"role": "user", "content": "word " * 9000}]
    counted = proxy.json("POST", "/v1/messages/count_tokens", {"model": MODEL, "messages": messages})["input_tokens"]
    answer = proxy.asked("POST", "/v1/messages", body({"messages": messages}, stream=stream))
    seen = check_error(json.loads(answer.read()), answer.status)
    assert (answer.status, seen.type) == (400, "invalid_request_error")
    assert seen.message == f"prompt is too long: {counted} tokens > 8192 maximum"


def test_models(proxy: Daemon) -> None:
    """The embedded model is the one that is offered, with an alias for Claude Code's picker, and its window."""
    offered = proxy.json("GET", "/v1/models?limit=1000")
    assert [each["id"] for each in offered["data"]] == ["smollm2-135m-instruct", "anthropic/smollm2-135m-instruct"]
    assert [each["max_input_tokens"] for each in offered["data"]] == [8192, 8192]
    assert proxy.json("GET", "/v1/models/smollm2-135m-instruct")["type"] == "model"


# ---- a server of somebody else's: the same program, but with a key that the test knows, so that it can look inside


@frozen
class Pair:
    """A llama.cpp server and, in front of it, a proxy that was told nothing but its address."""

    server: Child
    daemon: Daemon

    def slot(self) -> dict[str, Any]:
        slot: dict[str, Any] = self.server.json("GET", "/slots")[0]
        return slot

    def busy(self) -> bool:
        return bool(self.slot()["is_processing"])

    def generated(self) -> int:
        """The tokens of the answer so far; none while the prompt is read."""
        return int(self.slot()["next_token"][0]["n_decoded"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    with process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(orders())
        process.stdin.flush()
        server = Child(process.pid, key="secret", **json.loads(process.stdout.readline()))
        variables = {
            "PROVIDER": "openai",
            "PROVIDER_BASE_URL": f"http://{server.host}:{server.port}/v1",
            "PROVIDER_API_KEY": server.key,
            "DEFAULT_MODEL": "tiny",
        }
        with running(tmp_path_factory.mktemp("pair"), variables=variables) as daemon:
            yield Pair(server, daemon)
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


def test_llama_is_recognised(pair: Pair) -> None:
    """A llama.cpp server is known as one without being told: its counts are exact and its names are offered."""
    pair.daemon.logged("speaks llama.cpp and offers tiny")
    checked = streamed(pair.daemon, body(CONVERSATIONS["a system prompt"]))
    assert checked.message is not None
    counted = pair.daemon.json(
        "POST", "/v1/messages/count_tokens", {"model": MODEL, **CONVERSATIONS["a system prompt"]}
    )
    assert counted == {"input_tokens": prompt_tokens(checked.message)}
    assert "tiny" in [each["id"] for each in pair.daemon.json("GET", "/v1/models")["data"]]


STORY = "Write a very long story about a lighthouse."
LONG_READING = "alpha beta " * 3500


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "not streaming"])
@pytest.mark.parametrize(
    ("prompt", "in_prefill", "limit"), [(STORY, False, 1.0), (LONG_READING, True, 2.0)], ids=["generating", "prefill"]
)
def test_client_leaves(pair: Pair, prompt: str, in_prefill: bool, limit: float, stream: bool) -> None:
    """When a client goes away the model stops: within 1 s while it generates, within 2 s while it reads the prompt.

    llama.cpp looks up from its work between two batches, and one that began must end: on a machine that is busy with
    something else two of them may take longer than that. A model that does not stop reads on for some thirty.
    """
    allowed = limit
    for attempt in range(3):
        took = _seconds_to_stop(pair, f"{attempt} {prompt}", in_prefill, stream)
        if took < allowed:
            return
        allowed = max(limit, 2.5 * _seconds_of_a_batch(pair.server))
    raise AssertionError(f"it went on for {took:.2f} s; at most {allowed:.2f} s are allowed")


def _seconds_to_stop(pair: Pair, prompt: str, in_prefill: bool, stream: bool) -> float:
    wait_until("an idle slot", 120, lambda: not pair.busy())
    begun = len(pair.daemon.log)
    request = body({"messages": [{"role": "user", "content": prompt}]}, max_tokens=6000, stream=stream)
    connection = pair.daemon.ask("POST", "/v1/messages", request)
    if in_prefill:
        wait_until("prefill", 30, pair.busy)
        time.sleep(1)
        assert pair.generated() == 0
    else:
        wait_until("generation", 60, lambda: pair.busy() and pair.generated() > 3)
    assert pair.busy()
    left = time.monotonic()
    connection.close()
    wait_until("the end", 90, lambda: not pair.busy(), pause=0.01)
    took = time.monotonic() - left
    # Whoever left has a line in the log too, and it says that the answer was not wanted any more.
    pair.daemon.logged(r"POST /v1/messages \d+ client_gone", after=begun)
    return took


def _seconds_of_a_batch(server: Child) -> float:
    """The longest time between two signs of life while a prompt of some batches is read, just now."""
    messages = [{"role": "user", "content": "gamma delta " * 500}]
    request = {"messages": messages, "max_tokens": 1, "stream": True, "return_progress": True, "cache_prompt": False}
    answer = server.asked("POST", "/v1/chat/completions", request)
    signs = [time.monotonic()]
    for line in answer:
        if b"prompt_progress" in line:
            signs.append(time.monotonic())
    return max(later - earlier for earlier, later in pairwise(signs))
