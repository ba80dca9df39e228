"""What the proxy tells of a conversation's prefix, and where it sends it (issue 5, part 3)."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.fakes.callers import Caller
from tests.fakes.house import House, body
from tests.fakes.openai import Script
from tests.fakes.scripts import chunk

SESSION = {"x-claude-code-session-id": "11111111-2222"}


def said(prompt: int, cached: int) -> Script:
    usage = {"prompt_tokens": prompt, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": cached}}
    return Script(steps=[chunk({"content": "a"}, finish="stop"), chunk(None, usage=usage)])


def talk(*words: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[place % 2], "content": each} for place, each in enumerate(words)]


class CacheTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.house = House()

    def ask(self, script: Script, *words: str, headers: dict[str, str] | None = None, **fields: Any) -> Caller:
        self.house.fake.plays(script)
        told: dict[str, str | bytes | None] = {**(SESSION if headers is None else headers)}
        return self.house.ask("POST", "/v1/messages", body(messages=talk(*words), **fields), told)

    @property
    def line(self) -> str:
        return [line for line in self.house.lines if " POST /v1/messages " in line][-1]

    def test_grown(self) -> None:
        """A conversation that goes on is told as grown, with what a cache should hold; the log says whether it did."""
        first = self.ask(said(2000, 0), "Hi")
        self.assertTrue(first.headers["x-claudeproxy-cache"].startswith("new"))
        second = self.ask(said(2500, 1990), "Hi", "a", "go on")
        self.assertEqual(second.headers["x-claudeproxy-cache"], "grown; expected-tokens=2000")
        self.assertIn(" cache=hit ", self.line)
        self.ask(said(3000, 0), "Hi", "a", "go on", "a", "and on")
        self.assertIn(" cache=evicted ", self.line)

    def test_broken(self) -> None:
        """Where it broke and why is named before the answer comes, and in the log."""
        self.ask(said(2000, 0), "Hi", "a", "one", "b", "two")
        caller = self.ask(said(2000, 100), "Hi", "a", "other", "b", "two", "c", "three")
        self.assertIn("broken; reason=message; at=2", caller.headers["x-claudeproxy-cache"])
        self.assertIn(" cache=break@2:user message changed", self.line)

    def test_agents(self) -> None:
        """A sub-agent's prompt breaks nobody's."""
        self.ask(said(2000, 0), "Hi")
        self.ask(said(900, 0), "Other", headers={**SESSION, "x-claude-code-agent-id": "sub"})
        caller = self.ask(said(2500, 2000), "Hi", "a", "go on")
        self.assertTrue(caller.headers["x-claudeproxy-cache"].startswith("grown"))

    def test_search(self) -> None:
        """A web search that no backend sees is no part of the conversation: nothing is remembered of it, nor told."""
        search = {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}
        self.ask(said(2000, 0), "Hi")
        sent = len(self.house.fake.received)
        caller = self.house.ask(
            "POST", "/v1/messages", body(messages=talk("Hi", "a", "query: herring"), **search), {**SESSION}
        )
        self.assertEqual((caller.status, len(self.house.fake.received)), (200, sent))
        self.assertNotIn("x-claudeproxy-cache", caller.headers)
        self.assertNotIn("cache=", self.line)
        after = self.ask(said(2500, 1990), "Hi", "a", "go on")
        self.assertEqual(after.headers["x-claudeproxy-cache"], "grown; expected-tokens=2000")
        self.assertIn(" cache=hit ", self.line)

    def test_without_a_session(self) -> None:
        """Without a session nothing is remembered, and nothing told."""
        caller = self.ask(said(2000, 0), "Hi", headers={})
        self.assertNotIn("x-claudeproxy-cache", caller.headers)
        self.assertNotIn("cache=", self.line)

    def test_affinity(self) -> None:
        """All requests of one agent carry the same hash, which does not tell the session; it can be switched off."""
        self.ask(said(9, 0), "Hi")
        self.ask(said(9, 0), "Ho")
        self.ask(said(9, 0), "Hi", headers={**SESSION, "x-claude-code-agent-id": "sub"})
        sent = [
            each.headers.getRawHeaders("x-session-id") for each in self.house.fake.received if each.method == "POST"
        ]
        self.assertEqual(sent[0], sent[1])
        self.assertNotEqual(sent[0], sent[2])
        self.assertNotIn("1111", str(sent))
        self.house = House("generic", {"affinity_header": "none"})
        self.ask(said(9, 0), "Hi")
        self.assertIsNone(self.house.fake.received[-1].headers.getRawHeaders("x-session-id"))


class OfferedTests(SynchronousTestCase):
    """Models that a backend has told of."""

    def test_before_the_default(self) -> None:
        """A name that a backend offers leads there, whatever the default; it is listed, and its alias."""
        house = House("auto", default_model="main-model")
        house.fake.models = ["main-model", "other-model"]
        house.pass_time(2)
        house.reset(ping_ms=9000)
        house.pass_time(2)
        listed = [each["id"] for each in house.ask("GET", "/v1/models").json["data"]]
        for name in ("other-model", "anthropic/other-model"):
            self.assertIn(name, listed)
            house.fake.plays(said(9, 0))
            house.ask("POST", "/v1/messages", body(model=name))
            self.assertEqual(house.fake.received[-1].json["model"], "other-model")
        house.fake.plays(said(9, 0))
        house.ask("POST", "/v1/messages", body(model="unknown-model"))
        self.assertEqual(house.fake.received[-1].json["model"], "main-model")

    def test_reload_asks(self) -> None:
        """A reload asks backends that stayed what they are now."""
        house = House("auto")
        house.pass_time(2)
        house.fake.received.clear()
        house.reset(ping_ms=9000)
        house.pass_time(2)
        self.assertIn("/v1/models", [each.path for each in house.fake.received])
