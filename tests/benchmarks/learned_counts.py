"""How near the learned counts come to the real ones: `python -m tests.benchmarks.learned_counts`.

A conversation of 30 turns with prose, code and tools (`conversation`) is counted by the embedded model's own server,
whose template shows the tools. Before each count the proxy's estimate is asked for; the count then teaches it, as
the usage of each answer does when the proxy runs. With `--record` what was counted is kept in `counted.json`, from
which `tests/translate/test_learning.py` proves the same without a model.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import evolve, frozen

from claudeproxy.translate.chat_request import to_chat
from claudeproxy.translate.dialects import DIALECTS
from claudeproxy.translate.learning import Learned
from claudeproxy.translate.prompt_size import PromptScale, Size
from claudeproxy.wire.json import encode
from claudeproxy.wire.requests import parse_messages
from tests.benchmarks.conversation import requests

RECORDED = Path(__file__).with_name("counted.json")
_HOW = "python -m tests.benchmarks.learned_counts --record: sizes and real token counts of conversation.py, SmolLM2"


@frozen
class Turn:
    """A request's size, and its real count."""

    size: Size
    tokens: int


@frozen
class Guess:
    """What was estimated before the real count was known; `error` is in percent."""

    tokens: int
    estimate: int
    source: str

    @property
    def error(self) -> float:
        return 100 * (self.estimate - self.tokens) / self.tokens


def guesses(turns: Sequence[Turn], learned: Learned) -> Iterator[Guess]:
    """Estimates each turn, then learns from it."""
    for turn in turns:
        estimate = learned.estimate("embedded", "tiny", turn.size)
        learned.learn("embedded", "tiny", turn.size, turn.tokens)
        yield Guess(turn.tokens, estimate.tokens, estimate.source)


def counted(prose: int = 0) -> list[Turn]:
    """The conversation, counted by the real server."""
    from tests.e2e.test_llama_tools import TEMPLATE, llama  # only where the model is

    scale = PromptScale()
    with llama(TEMPLATE.read_text("utf-8")) as base:
        place = urlsplit(base)
        assert place.hostname is not None
        connection = HTTPConnection(place.hostname, place.port, timeout=60)
        turns = []
        for request in requests(prose):
            body = to_chat(parse_messages(encode(request)).request, "tiny", DIALECTS["llama.cpp"]).body
            turns.append(Turn(scale.measure(body, "llama.cpp"), _count(connection, body)))
        connection.close()
    return turns


def recorded() -> list[Turn]:
    """What `record` wrote."""
    turns = []
    for turn in json.loads(RECORDED.read_text("utf-8"))["turns"]:
        schema_bytes, tools, messages, image_tokens = turn["others"]
        size = Size(turn["texture"], schema_bytes, tools, messages, image_tokens, tuple(turn["trail"]))
        turns.append(Turn(size, turn["tokens"]))
    return turns


def record(turns: Sequence[Turn]) -> None:
    """Keeps the numbers; marks of a trail mean nothing elsewhere, and are told apart by small ones."""
    marks: dict[int, int] = {}
    lines = [
        json.dumps(
            {
                "tokens": turn.tokens,
                "texture": turn.size.texture,
                "others": turn.size.vector[7:],
                "trail": [marks.setdefault(mark, len(marks)) for mark in turn.size.trail],
            }
        )
        for turn in turns
    ]
    RECORDED.write_text(f'{{"how": "{_HOW}",\n"turns": [\n' + ",\n".join(lines) + "\n]}\n", "utf-8")


def _count(connection: HTTPConnection, body: Any) -> int:
    headers = {"content-type": "application/json", "authorization": "Bearer secret"}
    connection.request("POST", "/v1/chat/completions/input_tokens", encode(body), headers)
    response = connection.getresponse()
    said = response.read()
    assert response.status == 200, said
    return int(json.loads(said)["input_tokens"])


def main(arguments: Sequence[str]) -> None:
    turns, learned = counted(), Learned()
    print("turn    real  estimate   error  source")
    for number, guess in enumerate(guesses(turns, learned), 1):
        print(f"{number:4} {guess.tokens:7} {guess.estimate:9} {guess.error:+6.2f}%  {guess.source}")
    for name, trail in (("the same", turns), ("the same, no turn recognised", [bare(turn) for turn in turns])):
        errors = [abs(guess.error) for guess in guesses(trail, Learned())][4:]
        print(f"from turn 5 on, {name}: at most {max(errors):.2f}%, {sum(errors) / len(errors):.2f}% on average")
    if "--record" in arguments:
        record(turns)


def bare(turn: Turn) -> Turn:
    """A turn that looks like one of a conversation of its own."""
    return evolve(turn, size=evolve(turn.size, trail=()))


if __name__ == "__main__":
    main(sys.argv[1:])
