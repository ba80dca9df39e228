"""The real llama.cpp behind the proxy, as any OpenAI-compatible server: tools, schemas, images, its cache.

The model is so small that what it says proves nothing. That its calls are read out of its answers, by llama.cpp's
own machinery and the template beside this file, and arrive as calls does.
"""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import ROOT, Daemon, running
from tests.e2e.test_embedded_child import COMMAND, orders
from tests.stream_checker import Checked, check_error, check_message, check_stream

pytestmark = pytest.mark.model

TEMPLATE = Path(__file__).with_name("tools.jinja")
#: One server whose template knows tools, one with the model's own template, once more as one that refuses images.
BACKENDS = """
[models]
able = "able/tiny"
plain = "plain/tiny"
strict = "strict/tiny"

[backends.able]
provider = "openai"
base_url = "ABLE"
api_key = "secret"

[backends.plain]
provider = "openai"
base_url = "PLAIN"
api_key = "secret"

[backends.strict]
provider = "openai"
base_url = "PLAIN"
api_key = "secret"
unseen_images = "reject"
"""
WEATHER = {
    "name": "get_weather",
    "description": "Get the weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
FISH = {
    "name": "buy_fish",
    "description": "Buy fish at the harbour",
    "input_schema": {
        "type": "object",
        "properties": {"kind": {"enum": ["herring", "cod"]}, "pounds": {"type": "integer"}},
        "required": ["kind", "pounds"],
    },
}
PARIS = [{"role": "user", "content": "What is the weather in Paris?"}]
#: One red pixel.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
SEEN = [
    {
        "role": "user",
        "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
            {"type": "text", "text": "What is it?"},
        ],
    }
]


@contextmanager
def llama(template: str) -> Iterator[str]:
    """The address of a llama.cpp with this chat template; "" is the model's own."""
    process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    with process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(orders(window=4096, chat_template=template))
        process.stdin.flush()
        place = json.loads(process.stdout.readline())
        yield f"http://{place['host']}:{place['port']}/v1"


@pytest.fixture(scope="module")
def harbour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("proxy")
    with llama(TEMPLATE.read_text("utf-8")) as able, llama("") as plain:
        (folder / "claudeproxy.toml").write_text(BACKENDS.replace("ABLE", able).replace("PLAIN", plain))
        with running(folder, ["--config=claudeproxy.toml"]) as daemon:
            yield daemon


def body(messages: Sequence[Any], model: str = "able", **more: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 40, "temperature": 0, "messages": messages, **more}


def streamed(daemon: Daemon, request: dict[str, Any]) -> Checked:
    answer = daemon.asked("POST", "/v1/messages", {**request, "stream": True})
    assert answer.status == 200
    return check_stream(answer.read())


def whole(daemon: Daemon, request: dict[str, Any]) -> Checked:
    return check_message(daemon.json("POST", "/v1/messages", request))


either_way = pytest.mark.parametrize("ask", [streamed, whole])
Ask = Callable[[Daemon, dict[str, Any]], Checked]


def message_of(checked: Checked) -> dict[str, Any]:
    assert checked.message is not None
    return checked.message


def usage(checked: Checked) -> tuple[int, int]:
    """The tokens of the prompt, and how many of them came from the cache."""
    counts = message_of(checked)["usage"]
    return counts["input_tokens"] + counts["cache_read_input_tokens"], counts["cache_read_input_tokens"]


@either_way
def test_a_call(harbour: Daemon, ask: Ask) -> None:
    """A call that is demanded is really parsed: its name is the tool's, and its arguments fit the schema."""
    checked = ask(harbour, body(PARIS, tools=[WEATHER], tool_choice={"type": "any"}))
    [call] = checked.content
    assert (call["type"], call["name"], [*call["input"]]) == ("tool_use", "get_weather", ["city"])
    assert isinstance(call["input"]["city"], str)
    assert message_of(checked)["stop_reason"] == "tool_use"
    assert message_of(checked)["usage"]["output_tokens"] > 0


def test_a_chosen_tool(harbour: Daemon) -> None:
    """A tool that is chosen by its name is the one that is called, whatever was asked."""
    choice = {"type": "tool", "name": "buy_fish"}
    [call] = streamed(harbour, body(PARIS, tools=[WEATHER, FISH], tool_choice=choice)).calls
    assert call["name"] == "buy_fish"
    assert call["input"]["kind"] in ("herring", "cod") and isinstance(call["input"]["pounds"], int)


def test_a_conversation_with_tools(harbour: Daemon) -> None:
    """Turn after turn calls and results go back, the model goes on, and the cache holds all that was there before."""
    offer: dict[str, Any] = {"tools": [WEATHER], "tool_choice": {"type": "any"}}
    turns: list[Any] = []
    asked: list[tuple[int, int]] = []
    for city in ("Paris", "Oslo", "Rome"):
        turns.append({"role": "user", "content": f"What is the weather in {city}?"})
        checked = streamed(harbour, body(turns, **offer))
        [call] = checked.calls
        asked.append(usage(checked))
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": f"Sunny in {city}."}
        turns += [{"role": "assistant", "content": checked.content}, {"role": "user", "content": [result]}]
        turns.append({"role": "assistant", "content": "It is sunny."})
    for (earlier, _), (prompt, cached) in pairwise(asked):
        assert prompt > earlier
        assert cached >= earlier - 8, "all but the end of the earlier prompt"
    turns.append({"role": "user", "content": "What is the weather in Bern?"})
    [call] = whole(harbour, body(turns, tools=[WEATHER])).calls
    assert call["name"] == "get_weather", "having seen how it is done, it needs no demand"


@either_way
def test_an_answer_by_a_schema(harbour: Daemon, ask: Ask) -> None:
    """An answer that was asked for by a JSON Schema is JSON, and fits it."""
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "sex": {"enum": ["f", "m"]}},
        "required": ["name", "age", "sex"],
        "additionalProperties": False,
    }
    question = [{"role": "user", "content": "A person: Anna, 31 years old."}]
    checked = ask(harbour, body(question, "plain", output_config={"format": {"type": "json_schema", "schema": schema}}))
    answer = json.loads(checked.text)
    assert [*answer] == ["name", "age", "sex"]
    assert isinstance(answer["name"], str) and isinstance(answer["age"], int) and answer["sex"] in ("f", "m")


def test_a_template_without_tools(harbour: Daemon) -> None:
    """The model's own template would drop tools in silence: the proxy says that they are not sent, and sends none."""
    answer = harbour.asked("POST", "/v1/messages", body(PARIS, "plain", max_tokens=4, tools=[WEATHER, FISH]))
    assert answer.getheader("x-claudeproxy-dropped") == "tools (the model's template has none)"
    message = json.loads(answer.read())
    assert usage(check_message(message))[0] < 60
    harbour.logged(r"not sent to plain: tools \(the model's template has none\)")


def test_an_answer_in_no_format(harbour: Daemon) -> None:
    """An answer that llama.cpp cannot read is its 500, and would be again: a 400, which nobody repeats."""
    asked = body([{"role": "user", "content": "Hello"}], tools=[WEATHER], tool_choice={"type": "none"}, max_tokens=8)
    answer = harbour.asked("POST", "/v1/messages", asked)
    if answer.status == 200:
        pytest.skip("this build reads it")
    seen = check_error(json.loads(answer.read()), answer.status)
    assert (answer.status, answer.getheader("x-should-retry")) == (400, "false")
    assert seen.type == "invalid_request_error" and "does not match the expected" in seen.message


def test_an_image(harbour: Daemon) -> None:
    """A blind model gets a note for an image, and the caller is told; or a 400, where the settings say so."""
    answer = harbour.asked("POST", "/v1/messages", body(SEEN, "plain", max_tokens=4))
    assert (answer.status, answer.getheader("x-claudeproxy-dropped")) == (200, "image")
    words = [{"role": "user", "content": "[image omitted: this model cannot see images]\n\nWhat is it?"}]
    counted = harbour.json("POST", "/v1/messages/count_tokens", {"model": "plain", "messages": words})
    assert usage(check_message(json.loads(answer.read())))[0] == counted["input_tokens"]
    refused = harbour.asked("POST", "/v1/messages", body(SEEN, "strict"))
    seen = check_error(json.loads(refused.read()), refused.status)
    assert (refused.status, refused.getheader("x-should-retry")) == (400, "false")
    assert (seen.type, "cannot see images" in seen.message) == ("invalid_request_error", True)


@either_way
def test_no_answer_wanted(harbour: Daemon, ask: Ask) -> None:
    """With max_tokens 0 the prompt is only read: nothing is answered, and the next request finds it in the cache."""
    question = [{"role": "user", "content": f"What do you know about the {ask.__name__} herring of the north?"}]
    read = ask(harbour, body(question, "plain", max_tokens=0))
    assert (read.content, message_of(read)["stop_reason"]) == ([], "max_tokens")
    assert message_of(read)["usage"]["output_tokens"] == 0
    prompt, cached = usage(ask(harbour, body(question, "plain", max_tokens=4)))
    assert prompt == usage(read)[0] and cached >= prompt - 1
