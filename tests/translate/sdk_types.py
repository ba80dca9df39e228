"""
What the official SDKs' types allow, read out of the types themselves.

`requests` gives any request that `anthropic`'s parameter types can build; `fits` says whether a body is one that
`openai`'s parameter types know, and names what they do not know.
"""

import collections.abc
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, get_args, get_origin

import typing_extensions
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from pydantic import BaseModel, TypeAdapter
from typing_extensions import is_typeddict

from claudeproxy.translate.signatures import Reasoning, sign
from tests.strategies import clean_texts, json_objects, json_values

_REQUIRED = (typing.Required, typing_extensions.Required)
_ARRAYS = (list, collections.abc.Iterable, collections.abc.Sequence)
_LITERALS = (typing.Literal, typing_extensions.Literal)

#: Ids that calls and results share, so that now and then they meet.
_IDS = st.sampled_from(["toolu_1", "toolu_2", "call_3", "functions.Bash:0 weird/id", "toolu_cp_u1_Y2FsbF8z"])
_SPECIAL: Mapping[str, SearchStrategy[Any]] = {
    "id": _IDS,
    "tool_use_id": _IDS,
    "name": st.sampled_from(["Bash", "Read", "mcp__a_server__" + "very_" * 14 + "long", "get weather!"]),
    "model": st.sampled_from(["claude-sonnet-4-5", "gpt-5.2", "o3", "kimi-k3", "qwen"]),
    "max_tokens": st.integers(0, 128_000),
    "budget_tokens": st.integers(1024, 100_000),
    "data": st.sampled_from(["aGk=", "plain text"]),
    "input": json_objects(),
    "schema": json_objects(),
    "signature": st.sampled_from(
        ["", "EqQBCkYIBRgC", "cp1.eJw", sign(Reasoning("reasoning_content", "hm")), sign(Reasoning("x"))]
    ),
}


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """Any ``MessageCreateParams``, with at least one message."""
    request = draw(_typed(MessageCreateParamsNonStreaming))
    assume(request["messages"])
    return dict(request)


@cache
def _typed(kind: Any, name: str = "") -> SearchStrategy[Any]:
    """Any value of a parameter type; `name` is the field's, where it has one."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (*_REQUIRED, typing.Annotated):
        return _typed(inner[0], name)
    if is_typeddict(kind):
        return _dictionary(kind)
    if origin in _LITERALS:
        return st.sampled_from(inner)
    if origin in (typing.Union, types.UnionType):
        # The answers' own classes are allowed in a request, too; on the wire they are the same dictionaries.
        return st.one_of(_typed(each, name) for each in inner if not _is_model(each))
    if name in _SPECIAL and kind is not type(None):
        return _SPECIAL[name]
    if origin in _ARRAYS or "SequenceNotStr" in str(kind):
        return st.lists(_typed(inner[0] if inner else str), max_size=4)
    if origin in (dict, collections.abc.Mapping):
        return json_objects()
    if kind is object or kind is Any:
        return json_values(3)
    simple = {str: clean_texts(), int: st.integers(0, 5000), bool: st.booleans(), type(None): st.none()}
    return simple[kind] if kind in simple else st.floats(0, 1)


def _dictionary(kind: Any) -> SearchStrategy[dict[str, Any]]:
    needed, optional = {}, {}
    for name, hint in typing_extensions.get_type_hints(kind, include_extras=True).items():
        part = _typed(hint, name)
        if get_origin(hint) in _REQUIRED or (kind.__total__ and name in kind.__required_keys__):
            needed[name] = part
        else:
            optional[name] = part
    return st.fixed_dictionaries(needed, optional=optional)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


_CHAT = TypeAdapter(CompletionCreateParamsStreaming)
_RESPONSES = TypeAdapter(ResponseCreateParamsStreaming)


def unknown_to_openai(body: Mapping[str, Any]) -> set[str]:
    """
    The fields of a chat request for which OpenAI's own types have no name, as paths. Raises pydantic's
    ``ValidationError`` if what they do have a name for is of a wrong type.
    """
    return set(_extras("", _run_out(_CHAT.validate_python(body)), body))


def unknown_to_responses(body: Mapping[str, Any]) -> set[str]:
    """The same for a request to the Responses API."""
    return set(_extras("", _run_out(_RESPONSES.validate_python(body)), body))


def _run_out(value: Any) -> Any:
    """Pydantic checks an Iterable only as it is read."""
    if isinstance(value, dict):
        return {name: _run_out(each) for name, each in value.items()}
    if isinstance(value, str | bytes | int | float | None):
        return value
    return [_run_out(each) for each in value]


def _extras(path: str, known: Any, given: Any) -> Iterator[str]:
    if isinstance(given, Mapping):
        for name, value in given.items():
            here = f"{path}.{name}".lstrip(".")
            if name in known:
                yield from _extras(here, known[name], value)
            else:
                yield here
    elif isinstance(given, list):
        for left, right in zip(known, given, strict=True):
            yield from _extras(path, left, right)
