"""How much of each prompt llama.cpp finds in its cache: `python -m tests.benchmarks.prefix_cache [GGUF]`.

One conversation of Claude Code's (`ten_turns`), to the same model on the same server, each time started anew:

    through claudeproxy
    naively translated, as by many proxies, for an old client (its attribution block changes with every request)
    naively translated, for a current client
    by llama.cpp itself, whose own ``/v1/messages`` is asked directly

With a GGUF file whose window is large enough the prose is as long as it really was: of the embedded model's own file
that is a copy with ``gguf-set-metadata FILE llama.context_length 32768``, and a first prompt takes minutes.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen

from tests.benchmarks.ten_turns import requests
from tests.e2e.test_llama_cache import llama, proxied

#: Seconds for one turn.
PATIENCE = 900.0
KEY = {"authorization": "Bearer secret", "x-api-key": "secret", "content-type": "application/json"}
Body = dict[str, Any]


@frozen
class Turn:
    """Tokens of a prompt, how many of them were cached, and the seconds to the first token of the answer."""

    prompt: int
    cached: int
    seconds: float


@frozen
class Way:
    """How a request reaches the model."""

    name: str
    path: str
    #: What is sent for the request of a turn.
    form: Callable[[Body, int], Body]
    through_proxy: bool = False


def naive(body: Body, cch: str) -> Body:
    """All system messages to the front, the attribution block with them; results after the user's words."""
    block = f"x-anthropic-billing-header: cc_version=2.1.180; cc_entrypoint=cli;{cch}"
    system = [block, *(each["text"] for each in body["system"][1:])]
    messages: list[Body] = []
    for message in body["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text = "".join(each["text"] for each in blocks if each["type"] == "text")
        calls = [_call(each) for each in blocks if each["type"] == "tool_use"]
        if message["role"] == "system":
            system.append(text)
            continue
        if calls or text:
            messages.append({"role": message["role"], "content": text, **({"tool_calls": calls} if calls else {})})
        messages += [
            {"role": "tool", "tool_call_id": each["tool_use_id"], "content": each["content"]}
            for each in blocks
            if each["type"] == "tool_result"
        ]
    tools = [
        {
            "type": "function",
            "function": {"name": t["name"], "description": t["description"], "parameters": t["input_schema"]},
        }
        for t in body["tools"]
    ]
    first = {"role": "system", "content": "\n".join(system)}
    frame = {"model": "tiny", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0}
    return {
        **frame,
        "max_tokens": body["max_tokens"],
        "messages": [first, *messages],
        "tools": tools,
        "tool_choice": "required",
    }


def _call(block: Body) -> Body:
    function = {"name": block["name"], "arguments": json.dumps(block["input"])}
    return {"id": block["id"], "type": "function", "function": function}


WAYS = (
    Way("claudeproxy", "/v1/messages", lambda body, turn: {**body, "model": "tiny", "stream": True}, True),
    Way("naive, old client", "/v1/chat/completions", lambda body, turn: naive(body, f" cch={turn * 7919:05x};")),
    Way("naive, current client", "/v1/chat/completions", lambda body, turn: naive(body, "")),
    Way("llama.cpp's own", "/v1/messages", lambda body, turn: {**body, "model": "tiny", "stream": True}),
)


def asked(address: str, path: str, body: Body) -> Turn:
    """One request, to its end."""
    place = urlsplit(address)
    assert place.hostname is not None
    connection = HTTPConnection(place.hostname, place.port, timeout=PATIENCE)
    began = time.monotonic()
    connection.request("POST", path, json.dumps(body), KEY)
    response = connection.getresponse()
    prompt = cached = 0
    first = 0.0
    for line in response:
        if not line.startswith(b"data: {"):
            if response.status != 200:
                raise RuntimeError(line.decode())
            continue
        data = json.loads(line[6:])
        first = first or (time.monotonic() - began if _says(data) else 0.0)
        for counts in _counts(data):
            cached = counts.get("cache_read_input_tokens") or _details(counts) or cached
            prompt = max(prompt, counts.get("prompt_tokens", counts.get("input_tokens", 0) + cached))
    connection.close()
    return Turn(prompt, cached, first or time.monotonic() - began)


def _says(data: Body) -> bool:
    if data.get("type") in ("content_block_start", "content_block_delta"):
        return True
    delta = ((data.get("choices") or [{}])[0]).get("delta") or {}
    return any(delta.get(name) for name in ("content", "tool_calls", "reasoning_content"))


def _counts(data: Body) -> Iterator[Body]:
    for found in (data.get("usage"), (data.get("message") or {}).get("usage")):
        if isinstance(found, dict):
            yield found


def _details(counts: Mapping[str, Any]) -> int:
    return int((counts.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


def measured(way: Way, window: int, gguf: str) -> list[Turn]:
    """The whole conversation, one way."""
    with llama(window, gguf) as address, _through(way, address) as place:
        bodies = requests(full=bool(gguf))
        return [asked(place, way.path, way.form(body, turn)) for turn, body in enumerate(bodies, 1)]


@contextmanager
def _through(way: Way, address: str) -> Iterator[str]:
    if not way.through_proxy:
        yield address
        return
    with TemporaryDirectory() as folder, proxied(Path(folder) / "proxy", address) as daemon:
        yield daemon.url


def main(arguments: list[str]) -> None:
    gguf = arguments[0] if arguments else ""
    for way in WAYS:
        turns = measured(way, 32768 if gguf else 8192, gguf)
        print(f"\n{way.name}\nturn  prompt  cached  of what could be  first token")
        before = 0
        for number, turn in enumerate(turns, 1):
            share = f"{min(1.0, turn.cached / before):16.1%}" if before else " " * 16
            print(f"{number:4} {turn.prompt:7} {turn.cached:7} {share} {turn.seconds:10.1f} s")
            before = turn.prompt
        could = sum(turn.prompt for turn in turns[:-1])
        found = sum(min(turn.cached, earlier.prompt) for earlier, turn in pairwise(turns))
        later = [turn.seconds for turn in turns[1:]]
        print(
            f"from turn 2 on: {found / could:.1%} cached, {sum(later) / len(later):.1f} s to the first token",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
