"""Secrets and conversations are in no log (issue 6): every kind of request, answer and failure, at the level debug."""

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.backends import translating
from claudeproxy.routing.expectations import Secret
from claudeproxy.routing.keys import key_of
from claudeproxy.translate import chat_stream
from claudeproxy.web import app
from tests.fakes.house import BACKEND_KEY, House, body, rendered
from tests.fakes.openai import Cut, Script, Send, error, silent, text
from tests.fakes.scripts import chunk

CLIENT_KEY = "sk-client-canary-91bd"
OTHER_KEY = "sk-other-canary-44aa"
HEADER = "header-canary-77ce"
PROMPT = "prompt-canary-5c2e"
REPLY = "reply-canary-d1f4"
CANARIES = (CLIENT_KEY, OTHER_KEY, HEADER, PROMPT, REPLY, BACKEND_KEY)

SHOWN = {"x-api-key": CLIENT_KEY, "x-odd": HEADER, "cookie": HEADER, "anthropic-beta": HEADER, "user-agent": HEADER}
ASKED = body(
    system=PROMPT,
    messages=[{"role": "user", "content": PROMPT}],
    tools=[{"name": "T", "description": PROMPT, "input_schema": {"type": "object", "properties": {PROMPT: {}}}}],
    stop_sequences=[PROMPT],
    metadata={"user_id": PROMPT},
)
SAID = {"content": REPLY}
WORDS = {"error": {"message": f"{BACKEND_KEY} {PROMPT} {REPLY}", "code": PROMPT, "type": PROMPT}}

SCRIPTS: dict[str, Callable[[], Script]] = {
    "good": lambda: text(REPLY, REPLY),
    "slow": lambda: text(REPLY, REPLY).paced(3),
    "400": lambda: error(400, WORDS),
    "401": lambda: error(401, WORDS),
    "403": lambda: error(403, f"<html>{PROMPT} {BACKEND_KEY}</html>"),
    "429": lambda: error(429, WORDS, {"retry-after": "5"}),
    "500": lambda: error(500, WORDS),
    "503": lambda: error(503, REPLY),
    "redirect": lambda: error(302, REPLY, {"location": f"http://127.0.0.1:9/{PROMPT}"}),
    "error inside": lambda: Script(steps=[Send(b"data: " + json.dumps(WORDS).encode() + b"\n\n")]),
    "cut": lambda: Script(steps=[chunk(SAID), Cut()]),
    "garbage": lambda: Script(steps=[chunk(SAID), Send(b"data: {" + REPLY.encode() + b"\n\n")]),
    "not gzip": lambda: Script(headers={"content-encoding": "gzip"}, steps=[Send(REPLY.encode())]),
    "odd": lambda: Script(steps=[chunk({"content": {"x": REPLY}, "role": [REPLY]}), *text(REPLY).steps]),
    "odd call": lambda: Script(
        steps=[chunk({"tool_calls": [{"index": REPLY, "function": {"name": REPLY, "arguments": REPLY}}]})]
    ),
    "empty": lambda: Script(steps=[Send(b"")]),
    "mute": lambda: silent(headers=False),
    "stuck": lambda: Script(steps=[chunk(SAID), *silent().steps]),
}


class CanaryCase(SynchronousTestCase):
    """A house whose every event is watched, and those of the rest of the program, Twisted's own included."""

    house: House

    def setUp(self) -> None:
        self.others: list[LogEvent] = []
        globalLogPublisher.addObserver(self.others.append)  # type: ignore[arg-type]
        self.addCleanup(globalLogPublisher.removeObserver, self.others.append)

    def open(self, **settings: Any) -> House:
        keys = (key_of(CLIENT_KEY, "alice"), Secret(OTHER_KEY))
        self.house = House(keys=keys, **settings)
        return self.house

    def assert_discreet(self) -> None:
        written = rendered(self.house.events) + rendered(self.others) + repr(self.house.events) + repr(self.others)
        for event in self.house.events:
            if (failure := event.get("log_failure")) is not None:
                written += failure.getTraceback(detail="verbose") + repr(failure) + repr(failure.value.__dict__)
        for canary in CANARIES:
            self.assertNotIn(canary, written)


class FailureTests(CanaryCase):
    """What can happen to a request."""

    def test_backends(self) -> None:
        """Whatever the backend does, for whole answers and streams, to clients that stay and that go."""
        for backend in ({}, {"provider": "anthropic"}, {"provider": "anthropic", "repair": True}):
            house = self.open(backend=backend)
            for make in SCRIPTS.values():
                for stream in (True, False):
                    for stays in (True, False):
                        house.fake.plays(make())
                        session = {"x-claude-code-session-id": "s1"}
                        caller = house.ask("POST", "/v1/messages", {**ASKED, "stream": stream}, SHOWN | session)
                        house.pass_time(20 if stays else 1)
                        caller.vanish()
            self.assertGreater(len(house.request_lines), 70)
            self.assertEqual({event["key"] for event in house.request_lines}, {"alice"})
            self.assert_discreet()

    def test_requests(self) -> None:
        """Whatever is wrong with the request."""
        house = self.open(max_requests_per_key=1)
        good = json.dumps(ASKED).encode()
        for data in (
            good[:-1],
            good + PROMPT.encode(),
            good.replace(b'"max_tokens"', b'"' + PROMPT.encode() + b'"'),
            {**ASKED, "max_tokens": PROMPT},
            {**ASKED, "model": [PROMPT]},
            {**ASKED, "messages": [{"role": PROMPT, "content": PROMPT}]},
            {**ASKED, "messages": [{"role": "user", "content": [{"type": "image", "source": PROMPT}]}]},
            {**ASKED, "system": [{"type": "text", "text": {PROMPT: PROMPT}}]},
            {**ASKED, "tools": [{"name": "T", "input_schema": PROMPT}]},
            {**ASKED, "metadata": json.loads("[" * 200 + "]" * 200)},
            PROMPT.encode(),
        ):
            for path in ("/v1/messages", "/v1/messages/count_tokens"):
                house.ask("POST", path, data, SHOWN).vanish()
        for headers in (
            {"x-api-key": CLIENT_KEY + "x"},
            {"x-api-key": CLIENT_KEY.upper(), "authorization": f"Basic {OTHER_KEY}"},
            {**SHOWN, "origin": "https://evil.example"},
            {**SHOWN, "content-encoding": "gzip"},
        ):
            house.ask("POST", "/v1/messages", ASKED, headers).vanish()
        for target in (f"/v1/models?x={PROMPT}", f"/health?{CLIENT_KEY}"):
            for method in ("GET", "HEAD", "OPTIONS", "BREW"):
                house.ask(method, target, None, SHOWN).vanish()
                house.ask(method, target).vanish()
        for raw in (f"{PROMPT}\r\n\r\n", f"GET /{PROMPT}\r\n\r\n", f"GET / HTTP/1.1\r\n{HEADER}\r\n\r\n"):
            house.caller().send(raw.encode())
        house.caller().send(f"POST / HTTP/1.1\r\nx: {HEADER}\r\n".encode() + b"x: y\r\n" * 5000)
        house.caller().send(f"POST /v1/messages HTTP/1.1\r\nx-api-key: {CLIENT_KEY}\r\n".encode())
        house.pass_time(100)
        self.assertGreater(len(house.request_lines), 30)
        self.assert_discreet()

    def test_reloads(self) -> None:
        """A reload with other keys, a backend that is down, a daemon that stops."""
        house = self.open()
        house.reset(keys=(key_of(OTHER_KEY),))
        house.ask("POST", "/v1/messages", ASKED, SHOWN)
        house.reset(keys=(key_of(CLIENT_KEY),))
        house.fake.plays(silent())
        house.ask("POST", "/v1/messages", ASKED, SHOWN)
        stopped = house.proxy.stopService()
        house.pass_time(60)
        self.successResultOf(stopped)
        self.assert_discreet()


class FaultTests(CanaryCase):
    """Faults of ours, whose exceptions hold what they stumbled over."""

    def assert_told(self, caller_status: int, kind: str = "ValueError") -> None:
        """The log has the fault, its type and its place, and not what it says; the client was given an id."""
        faults = [event for event in self.house.events if "log_failure" in event]
        self.assertTrue(faults)
        for event in faults:
            trace = event["log_failure"].getTraceback()
            self.assertIn(kind, trace)
            self.assertIn("test_canaries.py", trace)
        self.assert_discreet()
        self.assertIn(caller_status, [event["status"] for event in self.house.request_lines])

    def test_in_a_route(self) -> None:
        """In the middle of a route, with its cause."""

        def fail(*args: object) -> None:
            try:
                raise KeyError(PROMPT)
            except KeyError as cause:
                raise ValueError(f"{PROMPT} {CLIENT_KEY} {args!r}") from cause

        self.patch(app, "read_messages", fail)
        house = self.open()
        caller = house.ask("POST", "/v1/messages", ASKED, SHOWN)
        self.assertEqual(caller.status, 500)
        self.assertNotIn("canary", caller.raw.decode())
        self.assert_told(500)

    def test_in_a_stream(self) -> None:
        """While an answer is translated."""

        def fail(self: object, delta: object) -> None:
            raise ValueError(f"{delta!r} {PROMPT}")

        self.patch(chat_stream.ChatStream, "_delta", fail)
        for stream, status in ((True, 500), (False, 500)):
            house = self.open()
            house.fake.plays(text(REPLY))
            house.ask("POST", "/v1/messages", {**ASKED, "stream": stream}, SHOWN)
            house.pass_time(5)
            self.assert_told(status)

    def test_after_the_client(self) -> None:
        """When the client has gone already."""
        waiting: list[Deferred[None]] = []

        async def fail(*args: object) -> None:
            held: Deferred[None] = Deferred(lambda each: each.errback(ValueError(f"{PROMPT} {CLIENT_KEY}")))
            waiting.append(held)
            await held

        self.patch(translating.TranslatingBackend, "prepare", fail)
        house = self.open()
        house.ask("POST", "/v1/messages", ASKED, SHOWN).vanish()
        house.pass_time(1)
        self.assertTrue(waiting)
        self.assert_told(499)

    def test_harmless(self) -> None:
        """What Python says of names and attributes is told, as there is nothing of anybody in it."""
        from claudeproxy.backends.discretion import discreet

        for fault, words in ((AttributeError("has no x"), "has no x"), (ValueError("secret"), "left out")):
            try:
                raise fault
            except (AttributeError, ValueError):
                told = discreet(Failure())
            self.assertIn(words, told.getTraceback())
            self.assertIn(type(fault).__name__, told.getTraceback())
            self.assertNotIn("secret", told.getTraceback())
