"""The whole corpus of PROTOCOL 5 through the whole proxy in memory, streaming and not: bytes in, bytes out."""

from typing import Any

import pytest
from attrs import evolve

from claudeproxy.translate.message import UNPARSED
from tests.fakes.cases import Case, load_cases
from tests.fakes.house import House

#: Long enough for a backend that names its end and leaves the connection open, and for one that falls silent.
A_WHILE = 3600.0


def house_for(case: Case) -> House:
    """A proxy with the backend that the case supposes."""
    needs = dict(case.needs)
    dialect = needs.pop("dialect", "generic")
    cells = {"starts_in_think": "starts_thinking", "no_done": "ends_without_done"}
    told = {cells.get(name, name): value for name, value in needs.items()}
    return House(dialect, {"cells": told} if told else None)


def answered(case: Case, **fields: Any) -> Any:
    house = house_for(case)
    house.fake.answers = lambda _: case.script
    caller = house.ask("POST", "/v1/messages", {**case.request, **fields})
    house.pass_time(A_WHILE)
    return caller


CASES = list(load_cases())


def for_whole(case: Case) -> Case:
    """The case for a client that does not stream: it sees nothing of an answer that fails later, and what a model
    made of arguments that are no object reaches it as Claude Code itself keeps such arguments."""
    choices = []
    for choice in case.choices:
        if "error" in choice:
            choice = {"error": choice["error"]}
        elif any("raw" in block for block in choice.get("content", ())):
            content = [_parsed(block) if "raw" in block else block for block in choice["content"]]
            choice = {**choice, "content": content}
        choices.append(choice)
    return evolve(case, expect={"any_of": choices})


def _parsed(block: Any) -> Any:
    unparsed = {UNPARSED: {"raw": block["raw"], "len": len(block["raw"])}}
    return {name: each for name, each in block.items() if name != "raw"} | {"input": unparsed}


@pytest.mark.parametrize("case", [case for case in CASES if case.request["stream"]], ids=lambda case: case.name)
def test_streamed(case: Case) -> None:
    """A client that streams gets what the row demands: a legal stream, or an error with a status."""
    caller = answered(case, stream=True)
    if caller.status == 200:
        case.judge_stream(caller.body)
    else:
        case.judge_error(caller.status, caller.json, caller.headers)


@pytest.mark.parametrize("case", [for_whole(case) for case in CASES], ids=lambda case: case.name)
def test_whole(case: Case) -> None:
    """A client that does not stream gets the same message whole, or an error with a status."""
    caller = answered(case, stream=False)
    if caller.status == 200 and not caller.ended:
        assert not caller.body.strip(), "an answer that failed late is cut off, and nothing of it was shown"
        assert any("error" in choice for choice in case.choices)
    elif caller.status == 200:
        case.judge_message(caller.json)
    else:
        case.judge_error(caller.status, caller.json, caller.headers)
