"""
A program that uses Anthropic's SDK for Python, of whatever version its interpreter has, and prints what it saw.

    python sdk_client.py URL KEYED_URL KEY

URL is a proxy that answers; KEYED_URL one that wants the key, knows five names of models, and cannot reach its backend.
It imports nothing of the project: the older SDK lives in an environment of its own.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import anthropic

MODEL = "claude-opus-5-5"
HELLO: Any = [{"role": "user", "content": "Say hello."}]


def main(url: str, keyed_url: str, key: str) -> dict[str, Any]:
    """Everything that was seen, fit for JSON."""
    client = _client(url, "none")
    keyed = _client(keyed_url, key)
    return {
        "version": anthropic.__version__,
        "create": _create(client),
        "raw_stream": _raw_stream(client),
        "stream": _stream(client),
        "count": _count(client),
        "models": _models(keyed),
        "errors": {
            "no messages": _error(lambda: client.messages.create(model=MODEL, max_tokens=5, messages=[])),
            "no such model": _error(lambda: client.get("/v1/models/nobody", cast_to=object)),
            "no such path": _error(lambda: client.post("/v1/nothing", body={}, cast_to=object)),
            "too long": _error(lambda: _ask(client, "word " * 9000)),
            "too long, streamed": _error(lambda: _ask(client, "word " * 9000, stream=True)),
            "wrong key": _error(lambda: _ask(_client(keyed_url, "wrong"), "Hello")),
            "backend away": _error(lambda: _ask(keyed, "Hello")),
            "nobody listens": _error(lambda: _ask(_client("http://127.0.0.1:1", "none"), "Hello")),
        },
    }


def _client(url: str, key: str) -> Any:
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=120)


def _ask(client: Any, text: str, **more: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return client.messages.create(model=MODEL, max_tokens=12, messages=messages, **more)


def _create(client: Any) -> dict[str, Any]:
    return _message(_ask(client, "Say hello."))


def _raw_stream(client: Any) -> list[str]:
    return [event.type for event in _ask(client, "Say hello.", stream=True)]


def _stream(client: Any) -> dict[str, Any]:
    with client.messages.stream(model=MODEL, max_tokens=12, messages=HELLO, system="Be brief.") as stream:
        text = "".join(stream.text_stream)
        return {**_message(stream.get_final_message()), "streamed": text}


def _message(message: Any) -> dict[str, Any]:
    usage = message.usage
    return {
        "text": "".join(block.text for block in message.content),
        "stop_reason": message.stop_reason,
        "model": message.model,
        "prompt": usage.input_tokens + (getattr(usage, "cache_read_input_tokens", 0) or 0),
        "output": usage.output_tokens,
    }


def _count(client: Any) -> int:
    messages = client.messages if hasattr(client.messages, "count_tokens") else client.beta.messages
    return int(messages.count_tokens(model=MODEL, messages=HELLO).input_tokens)


def _models(client: Any) -> Any:
    """The names, page by page; None if this SDK does not know of models."""
    if not hasattr(client, "models"):
        return None
    pages, page = [], client.models.list(limit=2)
    while True:
        pages.append([model.id for model in page.data])
        if not page.has_next_page():
            break
        page = page.get_next_page()
    return {
        "pages": pages,
        "all": [model.id for model in client.models.list(limit=2)],
        "one": client.models.retrieve(pages[0][0]).id,
    }


def _error(ask: Callable[[], Any]) -> dict[str, Any]:
    """Which classes the error belongs to, what it says, and the id that a user would report."""
    try:
        answer = ask()
    except anthropic.APIError as fault:
        body = fault.body if isinstance(fault.body, dict) else {}
        response = getattr(fault, "response", None)
        return {
            "classes": [each.__name__ for each in type(fault).__mro__],
            "status": getattr(fault, "status_code", None),
            "body": body,
            "request_id": None if response is None else response.headers.get("request-id"),
        }
    raise AssertionError(f"no error: {answer!r}")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])))
