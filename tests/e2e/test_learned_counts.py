"""Learned counts, and those of a tokenizer file, against the real tokenizer of the embedded model."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from claudeproxy.backends.gguf import find_gguf
from claudeproxy.backends.tokenizer import read_vocabulary
from claudeproxy.translate.chat_request import to_chat
from claudeproxy.translate.dialects import DIALECTS
from claudeproxy.translate.learning import Learned
from claudeproxy.wire.json import encode
from claudeproxy.wire.requests import parse_messages
from tests.benchmarks.conversation import requests
from tests.benchmarks.learned_counts import Turn, counted, guesses
from tests.e2e.test_llama_tools import TEMPLATE

pytestmark = pytest.mark.model

#: GGUF: the format of each kind of number.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@pytest.fixture(scope="module")
def turns() -> Sequence[Turn]:
    return counted()


def test_a_real_conversation(turns: Sequence[Turn]) -> None:
    """Of 30 turns of prose, code and tools the estimate is less than 3 % off from the fifth turn on (issue 4).

    What was learned serves a second conversation, in which other things are said, from its first turn on.
    """
    learned = Learned()
    first, second = ([*guesses(each, learned)] for each in (turns, counted(prose=9)))
    assert len(first) == len(second) == 30
    for number, guess in enumerate(first, 1):
        assert abs(guess.error) < (3 if number >= 5 else 10), f"turn {number}: {guess}"
    for number, guess in enumerate(second, 1):
        assert guess.source == "learned" and abs(guess.error) < 4, f"turn {number}: {guess}"


def test_a_tokenizer_file(turns: Sequence[Turn], tmp_path: Path) -> None:
    """With the model's own vocabulary and template beside each other, every count is the server's, to the token."""
    _write_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE.read_text("utf-8"), "utf-8")
    vocabulary = read_vocabulary(tmp_path, "tokenizer")
    for turn, request in zip(turns, requests(), strict=True):
        body = to_chat(parse_messages(encode(request)).request, "tiny", DIALECTS["llama.cpp"]).body
        assert vocabulary.count(body) == turn.tokens


def _write_tokenizer(path: Path) -> None:
    """The model's vocabulary as the file that it is published with elsewhere."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    with Path(find_gguf()).open("rb") as file:
        _, _, _, count = struct.unpack("<4sIQQ", file.read(24))
        values = {_text(file): _value(file, _number(file, "I")) for _ in range(count)}
    tokens = values["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in values["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    control = (token for token, kind in zip(tokens, values["tokenizer.ggml.token_type"], strict=True) if kind == 3)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(path))


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == 8:
        return _text(file)
    if kind == 9:
        item, count = _number(file, "I"), _number(file, "Q")
        return [_value(file, item) for _ in range(count)]
    return _number(file, _NUMBERS[kind])


def _number(file: BinaryIO, form: str) -> Any:
    return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))[0]


def _text(file: BinaryIO) -> str:
    return file.read(_number(file, "Q")).decode("utf-8", "replace")
