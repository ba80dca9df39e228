"""
What Claude Code really sends, of two versions: each recorded request is understood whole and translated for every
dialect with no loss that is not expected (issue 3). The prose in tests/recordings is filler, and most tools are left
out; every field is as it was.
"""

import json
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.translate.chat_request import to_chat
from claudeproxy.translate.dialects import CHAT_DIALECTS as DIALECTS
from claudeproxy.translate.translation import Translation
from claudeproxy.translate.web_search import is_web_search
from claudeproxy.wire.json import decode, encode
from claudeproxy.wire.requests import Parsed, parse_count, parse_messages
from tests.translate.sdk_types import unknown_to_openai

RECORDINGS = {path.stem: path for path in (Path(__file__).parent.parent / "recordings").glob("*.json")}
SEARCH = "2.1.330-web-search"

EFFORT, THOUGHTS = "output_config.effort", "messages.thinking"
#: The dialects that have a word for an effort, and those that take earlier thoughts of another model back as a text.
EFFORTS = {"llama.cpp", "vllm", "lmstudio", "openrouter", "deepseek"}
ECHOES = {name for name, each in DIALECTS.items() if each.reasoning_echo not in ("", "reasoning_details")}


def expected(name: str, dialect: str) -> set[str]:
    """What is lost: each word is true, and in all other cases nothing is."""
    with_history = name in ("2.1.197-image", "2.1.330-tools")
    lost = set()
    if name != "2.1.330-count" and (dialect not in EFFORTS or name == "2.1.197-title"):
        lost.add(EFFORT)  # without thinking there is no effort; the model here is none of OpenAI's
    if with_history and dialect not in ECHOES:
        lost.add(THOUGHTS)
    if with_history and dialect == "deepseek":
        lost.add("image")
    return lost


def parsed(name: str) -> Parsed:
    recorded = json.loads(RECORDINGS[name].read_text("utf-8"))
    read = parse_count if "count_tokens" in recorded["path"] else parse_messages
    return read(encode(recorded["body"]))


def chat(name: str, dialect: str) -> Translation:
    request = parsed(name).request
    return to_chat(request, request.model, DIALECTS[dialect])


def messages(name: str, dialect: str = "llama.cpp") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = decode(encode(chat(name, dialect).body["messages"]))
    return found


class RecordingTests(SynchronousTestCase):
    """All of them."""

    def test_understood(self) -> None:
        """There is no field in them that the reader does not know."""
        self.assertGreater(len(RECORDINGS), 7)
        for name in RECORDINGS:
            self.assertEqual(parsed(name).unknown, (), name)

    def test_translated(self) -> None:
        """They become requests that OpenAI's SDK could have built, and nothing unexpected is lost."""
        own = {"reasoning", "thinking", "chat_template_kwargs", "return_progress"}
        own |= {"messages.reasoning", "messages.reasoning_content"}
        for name in RECORDINGS.keys() - {SEARCH}:
            for dialect in DIALECTS:
                found = chat(name, dialect)
                self.assertEqual(set(found.dropped), expected(name, dialect), (name, dialect))
                in_words = name == "2.1.197-title" and dialect in ("deepseek", "kimi", "glm", "generic")
                told = ("output_config.format (asked for in words)",) if in_words else ()
                self.assertEqual(found.emulated, told, (name, dialect))
                self.assertLessEqual(unknown_to_openai(decode(encode(found.body))), own, (name, dialect))

    def test_no_trace_of_the_bill(self) -> None:
        """The billing line reaches nobody, and neither does the placeholder of deferred tools."""
        for name in RECORDINGS.keys() - {SEARCH}:
            for dialect in DIALECTS:
                body = encode(chat(name, dialect).body)
                self.assertNotIn(b"x-anthropic-billing-header", body)
                self.assertNotIn(b"DeferredToolPlaceholder", body)

    def test_parallel_calls(self) -> None:
        """2.1.330, two calls: results in the order of the calls, then the image of the first."""
        found = messages("2.1.330-tools")
        roles = [each["role"] for each in found]
        self.assertEqual(roles, ["system", "user", "assistant", "tool", "tool", "user"])
        self.assertEqual([each["tool_call_id"] for each in found[3:5]], [each["id"] for each in found[2]["tool_calls"]])
        self.assertEqual([part["type"] for part in found[5]["content"]], ["text", "image_url"])
        self.assertIn("<system-reminder>", found[1]["content"])

    def test_system_in_the_middle(self) -> None:
        """Both versions send a system message after the first user turn; where it is borne it stays there."""
        for name in ("2.1.197-image", "2.1.330-first"):
            self.assertEqual(
                [each["role"] for each in messages(name, "openai")[:3]], ["developer", "user", "developer"]
            )
            self.assertEqual([each["role"] for each in messages(name)[:2]], ["system", "user"])

    def test_title(self) -> None:
        """The request for a title asks for its schema."""
        wanted = decode(encode(chat("2.1.197-title", "llama.cpp").body["response_format"]))
        self.assertEqual(wanted["json_schema"]["schema"]["required"], ["title"])

    def test_search(self) -> None:
        """WebSearch's own request is known for what it is, and no other is."""
        self.assertEqual({name for name in RECORDINGS if is_web_search(parsed(name).request)}, {SEARCH})

    def test_small(self) -> None:
        """They are small enough to be read."""
        for path in RECORDINGS.values():
            self.assertLess(path.stat().st_size, 20_000)
