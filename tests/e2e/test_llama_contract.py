"""The contract of tests/contract against the real llama.cpp, through each API that it speaks itself (issue 4).

What it says proves nothing, so small is the model; that it is asked, read, counted and stopped alike does.
"""

import json
import re
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest
from attrs import frozen

from tests.e2e.daemon import Daemon, running, wait_until
from tests.e2e.test_llama_tools import (
    FISH,
    PARIS,
    TEMPLATE,
    WEATHER,
    Ask,
    either_way,
    llama,
    message_of,
    streamed,
    usage,
    whole,
)
from tests.stream_checker import Checked, check_error, check_stream

pytestmark = pytest.mark.model


@frozen
class Provider:
    """One of llama.cpp's own APIs; ``name`` is the setting ``provider``."""

    name: str
    #: More settings of its backends, as lines of the file; and the end of the base URL.
    settings: str = ""
    base_path: str = "/v1"
    #: Whether llama.cpp notices, while it reads a prompt, that its client has gone.
    stops_reading: bool = True


#: To try another API, add it here.
PROVIDERS = (
    Provider("openai"),
    Provider("responses"),
    Provider("anthropic", settings="repair = true", base_path="", stops_reading=False),
)
#: The last one once more, byte for byte: here it is not judged, but compared.
RAW = "raw"
#: Seconds for a slot to be free again.
PATIENCE = 5.0
#: The same while it reads: it looks up only between two batches of the prompt, which take long on a busy machine.
READING = 15.0
#: Tokens of the window that both servers have.
WINDOW = 4096
BACKEND = """
[backends.{name}]
provider = "{provider}"
base_url = "{url}"
api_key = "secret"
{settings}
"""
HELLO = [{"role": "user", "content": "Say hello."}]
STORY = [{"role": "user", "content": "Tell me a very long story of the sea and of all its ships."}]


@frozen
class Pier:
    """The proxy, two servers behind it, and the provider that is tried."""

    daemon: Daemon
    urls: dict[str, str]
    provider: Provider

    def body(self, messages: Any, server: str = "plain", **more: Any) -> dict[str, Any]:
        model = f"{server}-{self.provider.name}"
        return {"model": model, "max_tokens": 40, "temperature": 0, "messages": messages, **more}

    def count(self, messages: Any, server: str = "plain", **more: Any) -> int:
        asked = {"model": f"{server}-{self.provider.name}", "messages": messages, **more}
        return int(self.daemon.json("POST", "/v1/messages/count_tokens", asked)["input_tokens"])

    def busy(self) -> bool:
        """Whether the server with the model's own template has anything to do."""
        place = urlsplit(self.urls["plain"])
        connection = HTTPConnection(str(place.hostname), place.port, timeout=30)
        connection.request("GET", "/slots", headers={"authorization": "Bearer secret"})
        return any(slot["is_processing"] for slot in json.loads(connection.getresponse().read()))


@pytest.fixture(scope="module")
def piers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pier]]:
    folder = tmp_path_factory.mktemp("proxy")
    with llama(TEMPLATE.read_text("utf-8")) as able, llama("") as plain:
        urls = {"able": able.removesuffix("/v1"), "plain": plain.removesuffix("/v1")}
        names = [(server, provider) for provider in PROVIDERS for server in urls]
        lines = ["[models]", *(f'"{s}-{p.name}" = "{s}-{p.name}/tiny"' for s, p in names)]
        for server, provider in names:
            url = urls[server] + provider.base_path
            name = f"{server}-{provider.name}"
            lines.append(BACKEND.format(name=name, provider=provider.name, url=url, settings=provider.settings))
        lines.insert(1, f'{RAW} = "{RAW}/tiny"')
        lines.append(BACKEND.format(name=RAW, provider="anthropic", url=urls["plain"], settings=""))
        (folder / "claudeproxy.toml").write_text("\n".join(lines))
        with running(folder, ["--config=claudeproxy.toml"]) as daemon:
            yield {provider.name: Pier(daemon, urls, provider) for provider in PROVIDERS}


@pytest.fixture(params=PROVIDERS, ids=lambda provider: provider.name)
def pier(request: pytest.FixtureRequest, piers: dict[str, Pier]) -> Pier:
    return piers[request.param.name]


def test_opens(pier: Pier) -> None:
    """The first event is message_start, with a count of the prompt; each answer has an id of its own."""
    answers = [streamed(pier.daemon, pier.body(HELLO, max_tokens=4)) for _ in range(2)]
    for answer in answers:
        assert answer.events[0]["type"] == "message_start"
        assert answer.events[0]["message"]["usage"]["input_tokens"] > 0
    assert len({message_of(answer)["id"] for answer in answers}) == 2


def test_streams(pier: Pier) -> None:
    """The text comes in pieces, while it is made."""
    answer = pier.daemon.asked("POST", "/v1/messages", pier.body(STORY, max_tokens=100, stream=True))
    said, times = b"", []
    while piece := answer.read1(65536):
        said += piece
        times.append(time.monotonic())
    checked = check_stream(said)
    deltas = [event for event in checked.events if event["type"] == "content_block_delta"]
    assert len(deltas) > 20 and len(times) > 20
    assert times[len(times) // 2] > times[0] and times[-1] > times[len(times) // 2]


@either_way
def test_limit(pier: Pier, ask: Ask) -> None:
    """An answer that ends at its limit says so."""
    answer = ask(pier.daemon, pier.body(STORY, max_tokens=5))
    assert message_of(answer)["stop_reason"] == "max_tokens"
    assert message_of(answer)["usage"]["output_tokens"] == 5


@either_way
def test_counts(pier: Pier, ask: Ask) -> None:
    """A prompt is counted beforehand as the server counts it then, with tools and without."""
    told: dict[str, Any] = {"system": "Be kind."}
    assert usage(ask(pier.daemon, pier.body(HELLO, **told)))[0] == pier.count(HELLO, **told)
    offer: dict[str, Any] = {**told, "tools": [WEATHER, FISH], "tool_choice": {"type": "tool", "name": "get_weather"}}
    assert usage(ask(pier.daemon, pier.body(PARIS, "able", **offer)))[0] == pier.count(PARIS, "able", **offer)


@either_way
def test_a_call(pier: Pier, ask: Ask) -> None:
    """A call that is demanded is parsed, and the next turn takes its result."""
    offer: dict[str, Any] = {"tools": [WEATHER, FISH], "tool_choice": {"type": "tool", "name": "get_weather"}}
    answer = ask(pier.daemon, pier.body(PARIS, "able", **offer))
    [call] = answer.calls
    assert (call["name"], [*call["input"]]) == ("get_weather", ["city"])
    assert message_of(answer)["stop_reason"] == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "Sunny."}
    turns = [*PARIS, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    again = ask(pier.daemon, pier.body(turns, "able", **offer))
    assert usage(again)[0] > usage(answer)[0]
    assert [each["name"] for each in again.calls] == ["get_weather"]


def test_same_without_a_stream(pier: Pier) -> None:
    """A client that wants no stream gets just what the stream brings."""

    def told(answer: Checked) -> Any:
        return answer.content, message_of(answer)["stop_reason"], message_of(answer)["usage"]["output_tokens"]

    question = pier.body(STORY, max_tokens=20)
    assert told(streamed(pier.daemon, question)) == told(whole(pier.daemon, question))


def test_stop_sequence(pier: Pier) -> None:
    """A stop sequence ends the answer, is named, and frees the slot."""
    question = [{"role": "user", "content": "Count from 1 to 50 with commas."}]
    first = whole(pier.daemon, pier.body(question)).text
    stop = first[len(first) // 2 : len(first) // 2 + 3]
    answer = whole(pier.daemon, pier.body(question, max_tokens=2000, stop_sequences=[stop]))
    assert (message_of(answer)["stop_reason"], message_of(answer)["stop_sequence"]) == ("stop_sequence", stop)
    assert answer.text == first[: first.index(stop)]
    wait_until("a free slot", PATIENCE, lambda: not pier.busy())


def test_cache(pier: Pier) -> None:
    """What was read for one turn is not read again for the next, and the counts say so."""
    turns: list[Any] = [{"role": "user", "content": f"What do you know of the {pier.provider.name} herring? " * 20}]
    first = whole(pier.daemon, pier.body(turns, max_tokens=8))
    turns += [{"role": "assistant", "content": first.content}, {"role": "user", "content": "And of the cod?"}]
    prompt, cached = usage(whole(pier.daemon, pier.body(turns, max_tokens=8)))
    assert prompt > cached >= usage(first)[0] - 8


@pytest.mark.parametrize("streaming", [True, False])
def test_cancel_while_it_speaks(pier: Pier, streaming: bool) -> None:
    """A client that goes away while the model speaks frees its slot, whether it wanted a stream or not."""
    connection = pier.daemon.ask("POST", "/v1/messages", pier.body(STORY, max_tokens=3000, stream=streaming))
    wait_until("a busy slot", PATIENCE, pier.busy)
    if streaming:
        connection.getresponse().read(400)
    connection.close()
    wait_until("a free slot", PATIENCE, lambda: not pier.busy())
    pier.daemon.logged(r"client_gone")


def test_cancel_while_it_reads(pier: Pier) -> None:
    """A client that goes away while its prompt is still being read frees the slot, too."""
    if not pier.provider.stops_reading:
        pytest.skip("llama.cpp does not notice it in this API")
    story = " ".join(f"The {pier.provider.name} ship number {number} sailed to the north." for number in range(160))
    asked = pier.body([{"role": "user", "content": story}], max_tokens=3000, stream=True)
    connection = pier.daemon.ask("POST", "/v1/messages", asked)
    wait_until("a busy slot", PATIENCE, pier.busy)
    connection.close()
    wait_until("a free slot", READING, lambda: not pier.busy())


def test_overflow(pier: Pier) -> None:
    """A prompt that is too long is refused in the exact words that make Claude Code compact."""
    for stream in (True, False):
        asked = pier.body([{"role": "user", "content": "fish " * 6000}], stream=stream)
        answer = pier.daemon.asked("POST", "/v1/messages", asked)
        seen = check_error(json.loads(answer.read()), answer.status)
        assert answer.status == 400
        words, _, window = seen.message.partition(" tokens > ")
        assert words.startswith("prompt is too long: ") and window == f"{WINDOW} maximum"
        assert int(words.rpartition(" ")[2]) > 6000


def test_parallel(pier: Pier) -> None:
    """Requests that come at the same time all get their own answers."""
    asked = [pier.body(HELLO, max_tokens=limit, stream=True) for limit in (3, 5, 7)]
    waiting = [pier.daemon.ask("POST", "/v1/messages", each) for each in asked]
    answers = [check_stream(each.getresponse().read()) for each in waiting]
    assert [message_of(answer)["usage"]["output_tokens"] for answer in answers] == [3, 5, 7]
    assert len({message_of(answer)["id"] for answer in answers}) == 3


def test_models(pier: Pier) -> None:
    """Both names are listed, and the server's own model behind each."""
    listed = [each["id"] for each in pier.daemon.json("GET", "/v1/models?limit=100")["data"]]
    assert f"plain-{pier.provider.name}" in listed
    assert f"plain-{pier.provider.name}/tiny" in listed


# ---- its own /v1/messages, byte for byte


def both_ways(pier: Pier, path: str, body: dict[str, Any]) -> list[tuple[int, bytes]]:
    """Status and body, through the proxy and from the server itself."""
    place = urlsplit(pier.urls["plain"])
    found = []
    for host, port in (("127.0.0.1", pier.daemon.port), (place.hostname, place.port)):
        connection = HTTPConnection(str(host), port, timeout=60)
        headers = {"content-type": "application/json", "x-api-key": "secret"}
        connection.request("POST", path, json.dumps({**body, "model": RAW}), headers)
        answer = connection.getresponse()
        found.append((answer.status, answer.read()))
    return found


def plain(said: bytes) -> bytes:
    """Without what is new with each answer: ids, and how much of the prompt was still in the cache."""
    said = re.sub(rb"(chatcmpl|msg)[-_][A-Za-z0-9]+", b"an-id", said)
    return re.sub(rb'"(cache_read_input_tokens|input_tokens)":\d+', rb'"\1":0', said)


@pytest.mark.parametrize("stream", [True, False])
def test_raw_answers(piers: dict[str, Pier], stream: bool) -> None:
    """An answer through the proxy is, to the byte, what the server says to whoever asks it directly."""
    pier = piers["anthropic"]
    body = {"max_tokens": 12, "temperature": 0, "messages": HELLO, "stream": stream}
    (status, through), (direct_status, direct) = both_ways(pier, "/v1/messages?beta=true", body)
    assert (status, direct_status) == (200, 200)
    assert plain(through) == plain(direct)
    assert (b"message_stop" in through) == stream


def test_raw_refusals(piers: dict[str, Pier]) -> None:
    """So is an error, and a count."""
    cases: list[tuple[str, dict[str, Any], int]] = [
        ("/v1/messages", {"max_tokens": 12, "messages": [{"role": "user", "content": "fish " * 6000}]}, 400),
        ("/v1/messages", {"max_tokens": 12}, 500),  # llama.cpp's own word for a request without messages
        ("/v1/messages/count_tokens", {"messages": HELLO}, 200),
    ]
    for path, body, status in cases:
        through, direct = both_ways(piers["anthropic"], path, body)
        assert through == direct
        assert through[0] == status


def test_raw_cancel(piers: dict[str, Pier]) -> None:
    """A client that goes away while the model speaks frees its slot, with bytes passed on as well."""
    pier = piers["anthropic"]
    asked = {"model": RAW, "max_tokens": 3000, "messages": STORY, "stream": True}
    connection = pier.daemon.ask("POST", "/v1/messages", asked)
    connection.getresponse().read(400)
    assert pier.busy()
    connection.close()
    wait_until("a free slot", PATIENCE, lambda: not pier.busy())
