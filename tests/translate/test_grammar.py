"""The event machine against a second model of PROTOCOL 2.1, a regular expression that knows nothing of its states."""

import re
from itertools import product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.events import (
    BlockStart,
    BlockStop,
    Event,
    Failed,
    InputDelta,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
    Usage,
)
from claudeproxy.model.problems import bad_gateway
from claudeproxy.translate.grammar import EventMachine, IllegalEvent, State
from claudeproxy.wire.events import stream_bytes
from tests.stream_checker import check_stream

#: One letter an event: S(tart of the message), blocks T(ext) H(inking) U(se of a tool) O(ther), their deltas in small
#: letters (s is a signature), c(losing a block), D(elta of the message), E(nd), P(ing), F(ailed).
_OPEN = r"(T[tP]*|H[hP]*(sP*)?|U[jP]*|OP*)"
_WHOLE = r"(T[tP]*c|H[hP]*sP*c|U[jP]*c|OP*c|P)"
STREAM = re.compile(rf"P*(F|S{_WHOLE}*(F|{_OPEN}F|DP*[EF]))")
_BLOCKS: dict[str, dict[str, Any]] = {
    "T": {"type": "text", "text": ""},
    "H": {"type": "thinking", "thinking": "", "signature": ""},
    "U": {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {}},
    "O": {"type": "redacted_thinking", "data": "x"},
}


def event(letter: str, index: int) -> Event:
    match letter:
        case "S":
            return MessageStart("msg_1", "m", Usage(input=1))
        case "T" | "H" | "U" | "O":
            return BlockStart(index, dict(_BLOCKS[letter]))
        case "t":
            return TextDelta(index, "x")
        case "h":
            return ThinkingDelta(index, "x")
        case "s":
            return SignatureDelta(index, "")
        case "j":
            return InputDelta(index, "")
        case "c":
            return BlockStop(index)
        case "D":
            return MessageDelta("end_turn", Usage(output=1))
        case "E":
            return MessageStop()
        case "P":
            return Ping()
    return Failed(bad_gateway("m"))


def legal(letters: str) -> bool:
    """Whether a stream may begin like this: a beginning is legal if a failure may end it, or if it is whole."""
    return bool(STREAM.fullmatch(letters) or STREAM.fullmatch(letters + "F"))


def admitted(events: list[Event]) -> int:
    """How many of the events the machine takes."""
    machine = EventMachine()
    for count, each in enumerate(events):
        state = machine.state
        try:
            machine.admit(each)
        except IllegalEvent:
            assert machine.state is state, "a refused event moved it"
            return count
    return len(events)


class GrammarTests(SynchronousTestCase):
    """`EventMachine`."""

    def test_every_beginning(self) -> None:
        """From every state all sequences of three events: exactly the legal ones are admitted."""
        for start in ("", "S", "ST", "SH", "SHs", "SU", "SO", "STc", "SD", "SDE"):
            for rest in product("STHUOthsjcDEPF", repeat=3):
                self.check_beginning(start + "".join(rest))

    @given(st.text("SSTTHUOtthsjccDEPF", max_size=25))
    def test_any_order(self, letters: str) -> None:
        """Of any sequence of events exactly the legal beginning is admitted."""
        self.check_beginning(letters)

    def check_beginning(self, letters: str) -> None:
        events = [event(letter, letters[:place].count("c")) for place, letter in enumerate(letters)]
        expected = next((n for n in range(len(letters)) if not legal(letters[: n + 1])), len(letters))
        self.assertEqual(admitted(events), expected, letters)

    @given(st.from_regex(STREAM, fullmatch=True))
    def test_legal(self, letters: str) -> None:
        """Every legal sequence is admitted, and is then over."""
        machine = EventMachine()
        for place, letter in enumerate(letters):
            machine.admit(event(letter, letters[:place].count("c")))
        self.assertIs(machine.state, State.OVER)

    @given(st.from_regex(r"S(T[tP]*c|H[hP]*sc|U[jP]*c)*(DE|F)", fullmatch=True), st.data())
    def test_indices(self, letters: str, data: st.DataObject) -> None:
        """An index that is not the next one is refused, wherever it is."""
        events = [event(letter, letters[:place].count("c")) for place, letter in enumerate(letters)]
        places = [place for place, letter in enumerate(letters) if letter in "THUthsjc"]
        if not places:
            return
        place = data.draw(st.sampled_from(places))
        right = letters[:place].count("c")
        wrong = data.draw(st.integers(-1, 9).filter(lambda index: index != right))
        events[place] = event(letters[place], wrong)
        self.assertEqual(admitted(events), place)

    @given(st.from_regex(r"P*S(T[tP]*cUc|H[hP]*sP*cUc|U[jP]*cP*)*(DP*E|F)", fullmatch=True))
    def test_judge_agrees(self, letters: str) -> None:
        """What it admits is what the judge of streams takes for an answer."""
        events = [event(letter, letters[:place].count("c")) for place, letter in enumerate(letters)]
        if "U" in letters and letters.endswith("E"):
            events = [
                MessageDelta("tool_use", each.usage) if isinstance(each, MessageDelta) else each for each in events
            ]
        for number, each in enumerate(events):
            if isinstance(each, BlockStart) and each.block["type"] == "tool_use":
                events[number] = BlockStart(each.index, {**each.block, "id": f"toolu_{number}"})
        found = check_stream(stream_bytes(events, "req_1"))
        self.assertEqual(found.finished, letters.endswith("E"))

    def test_no_content(self) -> None:
        """What is refused is named, but not shown: the text may be anybody's conversation."""
        machine = EventMachine()
        fault = self.assertRaises(IllegalEvent, machine.admit, TextDelta(0, "secret"))
        self.assertNotIn("secret", str(fault))
        self.assertIn("TextDelta", str(fault))
