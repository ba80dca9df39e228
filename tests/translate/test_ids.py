"""Ids of tool calls, both ways (issue 3: every unique, non-empty id is kept; PROTOCOL 4.1.7, rows 5 to 7)."""

import json
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.translate.chat_request import to_chat
from claudeproxy.translate.chat_stream import ChatStream
from claudeproxy.translate.dialects import DIALECTS
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.ids import kept_or_minted, minted, original
from claudeproxy.translate.names import Names
from claudeproxy.translate.reply import Reply
from claudeproxy.wire.events import stream_bytes
from claudeproxy.wire.json import encode
from claudeproxy.wire.requests import parse_messages
from tests.strategies import IDS, nasty_texts
from tests.stream_checker import check_stream

ids = nasty_texts(min_size=1) | st.sampled_from([each for each in IDS if each])
uniques = st.text("0123456789abcdefXYZ", min_size=1, max_size=12)
#: Ids that look like ours.
lookalikes = st.builds(minted, ids, uniques) | st.from_regex(r"\Atoolu_cp_[0-9a-z]{1,3}_[0-9a-zA-Z_-]{0,9}\Z")


class IdTests(SynchronousTestCase):
    """`claudeproxy.translate.ids` alone."""

    @given(ids)
    def test_kept(self, id: str) -> None:
        """A unique, non-empty id is kept as it is, and is itself on the way back."""
        used: set[str] = set()
        self.assertEqual(kept_or_minted(id, used, lambda: "u1"), id)
        self.assertEqual((original(id), used), (id, {id}))

    @given(ids | lookalikes, uniques)
    def test_reversible(self, id: str, unique: str) -> None:
        """A minted id has the letters that every server takes, and carries the original."""
        ours = minted(id, unique)
        self.assertRegex(ours, r"\Atoolu_[A-Za-z0-9_-]+\Z")
        self.assertEqual(original(ours), id)

    @given(st.lists(ids | lookalikes | st.just(""), max_size=8), st.sets(ids | lookalikes, max_size=4))
    def test_all_differ(self, given: list[str], known: set[str]) -> None:
        """Whatever ids a backend gives, the client gets ids that differ from each other and from the known ones; and
        the backend gets its own back, where it gave one."""
        numbers = count(1)
        used = set(known)
        chosen = [kept_or_minted(id, used, lambda: f"u{next(numbers)}") for id in given]
        self.assertEqual(len({*chosen, *known}), len(chosen) + len(known))
        for id, ours in zip(given, chosen, strict=True):
            self.assertEqual(original(ours), id or ours)

    def test_missing(self) -> None:
        """An id that was never given is ours on both ways."""
        ours = minted("", "u1")
        self.assertEqual((original(ours), ours.startswith("toolu_")), (ours, True))

    @given(lookalikes | st.text(max_size=30).map("toolu_cp_".__add__))
    def test_never_fails(self, id: str) -> None:
        """Whatever a client sends for an id is taken."""
        self.assertIsInstance(original(id), str)


class JourneyTests(SynchronousTestCase):
    """Out of a stream, through a client, back to the backend."""

    @settings(max_examples=100, deadline=None)
    @given(st.lists(ids | lookalikes, min_size=1, max_size=4, unique=True), st.booleans())
    def test_there_and_back(self, given: list[str], known: bool) -> None:
        """The backend gets each of its ids back, in calls and results, whether or not the client knew it before."""
        before = frozenset(given[:1]) if known else frozenset[str]()
        numbers = count(1)
        expected = Expected("fake", 1, names=Names.of(["Bash"]), used_ids=before)
        machine = ChatStream(Reply("msg_1", "m"), expected, lambda: f"u{next(numbers)}")
        calls = [
            {"index": index, "id": id, "function": {"name": "Bash", "arguments": "{}"}}
            for index, id in enumerate(given)
        ]
        chunk = {"choices": [{"delta": {"tool_calls": calls}, "finish_reason": "tool_calls"}]}
        events = machine.receive(b"data: " + encode(chunk) + b"\n\ndata: [DONE]\n\n")
        answer = check_stream(stream_bytes(events))
        blocks = [{key: each[key] for key in ("type", "id", "name", "input")} for each in answer.calls]
        results = [
            {"type": "tool_result", "tool_use_id": each["id"], "content": each["id"]} for each in reversed(blocks)
        ]
        turns = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": blocks},
            {"role": "user", "content": results},
        ]
        asked = json.dumps({"model": "m", "max_tokens": 9, "messages": turns}).encode()
        sent = to_chat(parse_messages(asked).request, "m", DIALECTS["generic"]).body["messages"]
        self.assertEqual([each["id"] for each in sent[1]["tool_calls"]], given)
        self.assertEqual([each["tool_call_id"] for each in sent[2:]], given)
        self.assertEqual([each["content"] for each in sent[2:]], [each["id"] for each in blocks])
