"""The flight recorder: both sides of every request, without a word of it; for local eyes or an admin key."""

import json
from typing import Any

from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.expectations import Secret
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.house import BACKEND_KEY, FRONT_PORT, House, body
from tests.fakes.openai import Cut, Script, Send, Wait, error, json_body, llama_text, silent, text
from tests.fakes.scripts import chunk

SESSION = {"x-claude-code-session-id": "0123456789abcdef"}
ADMIN = "admin-key-canary-52aa"
PROMPT, SYSTEM, REPLY = "prompt-canary-5c2e", "system-canary-0a77", "reply-canary-d1f4"


class RecordTests(SynchronousTestCase):
    """What is kept of a request."""

    def setUp(self) -> None:
        self.house = House("llama.cpp", models={"claude-sonnet-4-5": "qwen"})

    def last(self) -> Any:
        found = self.house.ask("GET", "/admin/requests/last")
        self.assertEqual(found.status, 200, found.raw)
        return found.json

    def test_both_sides(self) -> None:
        """What was asked, by which rule it was routed, what was sent, how the backend took it, and what came of it."""
        steps = llama_text("a", "b", prompt=40, cached=30).steps
        self.house.fake.plays(Script(steps=[Wait(0.5), *steps[:4], Wait(1), *steps[3:]]))
        asked = body(
            system="You are.",
            tools=[{"name": "Bash", "input_schema": {"type": "object"}}],
            stop_sequences=["x"],
            top_k=3,
            zork=1,
        )
        self.house.ask("POST", "/v1/messages", asked, SESSION)
        self.house.pass_time(2)
        record = self.last()
        self.assertEqual(record["asked"]["messages"], 1)
        self.assertEqual(record["asked"]["last_messages"], [{"role": "user", "parts": [{"type": "text", "size": 2}]}])
        self.assertEqual((record["asked"]["tools"], record["asked"]["system_size"]), (1, 8))
        self.assertEqual(record["asked"]["settings"]["max_tokens"], 64)
        self.assertEqual(record["asked"]["size"], len(json.dumps(asked)))
        self.assertEqual(record["route"], {"backend": "fake", "model": "qwen", "rule": "exact"})
        self.assertEqual(record["rewrites"]["dropped"], ["zork"])
        self.assertEqual(record["rewrites"]["emulated"], ["stop_sequences"])
        self.assertEqual([each["role"] for each in record["sent"]["last_messages"]], ["system", "user"])
        self.assertEqual(record["sent"]["settings"]["return_progress"], True)
        call = record["backend_call"]
        self.assertEqual(call["dialect"], "llama.cpp")
        (attempt,) = call["attempts"]
        self.assertEqual((attempt["address"], attempt["status"]), ("http://127.0.0.1:9000", 200))
        self.assertEqual(attempt["size"], len(self.house.fake.chats[-1].body))
        self.assertEqual(
            [call[name] for name in ("first_byte", "first_token", "last_byte", "ended")], [0.5, 0.5, 1.5, 1.5]
        )
        self.assertEqual(call["bytes"], self.house.fake.chats[-1].written)
        self.assertEqual(record["usage"]["prompt"], 40)
        self.assertEqual(record["usage"]["cache_read"], 30)
        self.assertEqual((record["status"], record["outcome"], record["running"]), (200, "end_turn", False))
        self.assertEqual(record["cache_facts"]["prefix"], "new")
        self.assertEqual(record["prompt"]["source"], "estimate")
        self.assertEqual(record["seconds"], 1.5)
        self.assertGreater(record["answer"]["bytes"], 100)
        self.assertIsNone(record["content"])

    def test_running(self) -> None:
        """A request that runs is there as far as it has come, with what kept its client waiting."""
        self.house.reset(ping_ms=10_000, liveness_ms=25_000)
        self.house.fake.plays(silent())
        caller = self.house.ask("POST", "/v1/messages", body(), SESSION)
        self.house.pass_time(41)
        record = self.last()
        self.assertTrue(record["running"])
        self.assertEqual((record["status"], record["seconds"]), (None, 41.0))
        waits = record["waits"]
        self.assertEqual((waits["committed"], waits["grace_ran_out"]), (2.0, True))
        self.assertEqual((waits["pings"], waits["signs_of_life"]), (2, 1))
        caller.vanish()
        record = self.last()
        self.assertEqual((record["running"], record["outcome"]), (False, "client_gone"))

    def test_joined(self) -> None:
        """Who joins another request's answer says whose, and shares what is known of the backend's side."""
        self.house.reset(interrupt_ms=1000, grace_ms=0)
        steps = llama_text("a").steps
        self.house.fake.plays(Script(steps=[Wait(5), *steps]))
        first = self.house.ask("POST", "/v1/messages", body(), SESSION)
        self.house.pass_time(2)
        first.vanish()
        self.house.ask("POST", "/v1/messages", body(), SESSION)
        self.house.pass_time(4)
        joined, left = self.house.ask("GET", "/admin/requests?limit=2").json["data"]
        self.assertEqual((joined["joined"], joined["outcome"], left["outcome"]), (True, "end_turn", "client_gone"))
        record = self.last()
        self.assertEqual(record["joined_to"], left["id"])
        self.assertEqual(record["backend_call"]["attempts"][0]["sent"], -2.0)
        self.assertEqual(record["backend_call"]["first_token"], 3.0)

    def test_stale_connection(self) -> None:
        """A request that was sent again because its connection was stale says so."""
        self.house.fake.plays(Script(steps=[Cut()]))
        self.house.fake.plays(text("b"))
        self.house.ask("POST", "/v1/messages", body())
        self.assertEqual(self.last()["outcome"], "end_turn")
        whys = [each["why"] for each in self.last()["backend_call"]["attempts"]]
        self.assertEqual(whys, ["", "the connection was stale"])

    def test_milder(self) -> None:
        """So does one that was sent again because the model refused to think."""
        self.house = House("lmstudio")
        self.house.fake.plays(error(400, {"error": "this model does not support thinking"}))
        self.house.fake.plays(text("b"))
        self.house.ask(
            "POST", "/v1/messages", body(thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2000)
        )
        attempts = self.last()["backend_call"]["attempts"]
        self.assertEqual([each["status"] for each in attempts], [400, 200])
        self.assertIn("refuses", attempts[1]["why"])

    def test_clamped(self) -> None:
        """A shorter answer than was asked for is told, with the count that made it so."""
        self.house = House(backend={"context_window": 1000})
        self.house.fake.plays(text("a"))
        self.house.ask("POST", "/v1/messages", body(max_tokens=5000))
        record = self.last()
        self.assertEqual(record["rewrites"]["max_tokens"]["asked"], 5000)
        self.assertEqual(record["rewrites"]["max_tokens"]["sent"], self.house.fake.chats[-1].json["max_tokens"])
        self.assertEqual(record["prompt"]["window"], 1000)

    def test_refused(self) -> None:
        """A request that fails has the words that its client got."""
        self.house.fake.plays(error(429, {"error": {"message": "not so fast"}}))
        self.house.ask("POST", "/v1/messages", body())
        record = self.last()
        self.assertEqual((record["status"], record["answer"]["error"]["status"]), (429, 429))
        self.assertIn("not so fast", record["answer"]["error"]["message"])
        self.house.ask("POST", "/v1/messages", body(max_tokens="many"))
        self.assertIn("max_tokens", self.last()["answer"]["error"]["message"])
        self.assertEqual(self.last()["backend_call"], None)
        self.house.fake.plays(Script(steps=[chunk({"content": "a"}), Cut()]))
        self.house.ask("POST", "/v1/messages", body())
        self.assertEqual(self.last()["answer"]["error"]["type"], "api_error")

    def test_counted(self) -> None:
        """A count tells what was counted, and how."""
        self.house.ask("POST", "/v1/messages/count_tokens", body(max_tokens=None, stream=None))
        record = self.last()
        self.assertEqual((record["path"], record["status"]), ("/v1/messages/count_tokens", 200))
        self.assertEqual(record["prompt"]["source"], "estimate")

    def test_passed_through(self) -> None:
        """Of an answer that is passed through the same is known, but for what only a translation knows."""
        self.house = House(
            backend={"provider": "anthropic", "base_url": "http://127.0.0.1:9000"}, make_fake=FakeAnthropic
        )
        self.house.ask("POST", "/v1/messages", body())
        record = self.last()
        self.assertEqual((record["status"], record["outcome"]), (200, "end_turn"))
        self.assertEqual(record["asked"]["messages"], 1)
        call = record["backend_call"]
        self.assertEqual([each["status"] for each in call["attempts"]], [200])
        for moment in ("first_byte", "first_token", "last_byte", "ended"):
            self.assertIsNotNone(call[moment], moment)
        self.assertEqual(call["bytes"], self.house.fake.asked[-1].written)
        self.assertIsNone(record["answer"]["error"])
        refusal = {"type": "error", "error": {"type": "rate_limit_error", "message": "not so fast"}}
        self.house.fake.plays(json_body(refusal, 429))
        self.assertEqual(self.house.ask("POST", "/v1/messages", body()).status, 429)
        told = {"status": 429, "type": "rate_limit_error", "message": "not so fast"}
        self.assertEqual(self.last()["answer"]["error"], told)
        self.assertIsNone(self.last()["backend_call"]["first_token"])

    def test_in_one_piece(self) -> None:
        """An answer that comes whole in one piece had a first token, too."""
        self.house.fake.plays(Script(steps=[Wait(1), Send(text("a", "b").body_bytes())]))
        self.house.ask("POST", "/v1/messages", body())
        self.house.pass_time(1)
        self.assertEqual(self.last()["backend_call"]["first_token"], 1.0)

    def test_small(self) -> None:
        """A record that is kept does not keep the conversation's hashes, nor the request."""
        self.house.fake.plays(text("a"))
        caller = self.house.ask("POST", "/v1/messages", body(), SESSION)
        record = self.house.proxy._records._recorder.find(caller.headers["request-id"])
        assert record is not None
        self.assertIsNotNone(record.continuity)
        self.assertEqual((record.exchange.turn, record.exchange.stop, record._request), (None, None, None))


class RedactionTests(SynchronousTestCase):
    """What is kept, and what never is."""

    def ask(self, **settings: Any) -> str:
        house = House(keys=(Secret("client-canary"),), admin_keys=(Secret(ADMIN),), **settings)
        house.fake.plays(text(REPLY))
        asked = body(system=SYSTEM, messages=[{"role": "user", "content": PROMPT}], tools=[{"name": PROMPT}])
        house.ask("POST", "/v1/messages", asked, {"x-api-key": "client-canary", "cookie": "cookie-canary"})
        found = house.ask("GET", "/admin/requests/last", None, {"x-api-key": ADMIN})
        self.assertEqual((found.status, found.json["outcome"]), (200, "end_turn"))
        return found.body.decode()

    def test_without_content(self) -> None:
        """No word of the conversation, no credential."""
        self.assertNotIn("canary", self.ask())

    def test_with_content(self) -> None:
        """If it was asked for, what the client sent and got, and what the backend was sent and said; no credential."""
        found = self.ask(recorder_content=True)
        for canary in ("client-canary", "cookie-canary", BACKEND_KEY, ADMIN):
            self.assertNotIn(canary, found)
        content = json.loads(found)["content"]
        self.assertEqual(set(content), {"request", "sent", "received", "answer"})
        self.assertIn(SYSTEM, content["request"])
        self.assertIn(SYSTEM, content["sent"])
        self.assertIn(REPLY, content["received"])
        self.assertIn("message_stop", content["answer"])

    def test_bounded(self) -> None:
        """Of each body only the beginning."""
        house = House(recorder_content=True)
        house.fake.plays(text(*["y" * 10_000] * 20))
        house.ask("POST", "/v1/messages", body(messages=[{"role": "user", "content": "x" * 200_000}]))
        content = house.ask("GET", "/admin/requests/last").json["content"]
        self.assertEqual({name: len(data) for name, data in content.items()}, dict.fromkeys(content, 64 * 1024))
        self.assertEqual(len(content), 4)

    def test_content_needs_the_admin_key(self) -> None:
        """Where there are keys, being local is not enough to read what others said."""
        house = House(keys=(Secret("client-canary"),), recorder_content=True)
        house.ask("POST", "/v1/messages", body(), {"x-api-key": "client-canary"})
        self.assertIsNone(house.ask("GET", "/admin/requests/last").json["content"])


class ListTests(SynchronousTestCase):
    """The list."""

    def setUp(self) -> None:
        self.house = House(recorder_size=4)
        for session, script in (("aaaa", text("a")), ("bbbb", error(404, {"error": "no"})), ("aabb", text("c"))):
            self.house.fake.plays(script)
            self.house.ask("POST", "/v1/messages", body(), {"x-claude-code-session-id": session})

    def sessions(self, query: str = "") -> list[str]:
        return [each["session"] for each in self.house.ask("GET", f"/admin/requests{query}").json["data"]]

    def test_last(self) -> None:
        """The last one is the last that asked for a model; whoever looks on asks without one."""
        house = House()
        house.ask("GET", "/v1/models")
        self.assertEqual(house.ask("GET", "/admin/requests/last").json["path"], "/v1/models")
        house.chat(text("a"))
        house.ask("GET", "/v1/models")
        self.assertEqual(house.ask("GET", "/admin/requests/last").json["path"], "/v1/messages")

    def test_newest_first(self) -> None:
        """The newest first, and of a limited number."""
        self.assertEqual(self.sessions(), ["aabb", "bbbb", "aaaa"])
        self.assertEqual(self.sessions("?limit=1"), ["aabb"])
        for limit in ("0", "x", "-1"):
            self.assertEqual(self.house.ask("GET", f"/admin/requests?limit={limit}").status, 400)

    def test_filters(self) -> None:
        """Of a session, of a status, of those that run."""
        self.assertEqual(self.sessions("?session=aa"), ["aabb", "aaaa"])
        self.assertEqual(self.sessions("?status=404"), ["bbbb"])
        self.assertEqual(self.sessions("?status=2xx"), ["aabb", "aaaa"])
        self.house.fake.plays(silent())
        self.house.ask("POST", "/v1/messages", body())
        self.assertEqual(self.sessions("?status=running"), [""])

    def test_as_many_as_set(self) -> None:
        """The oldest go; monitors and who looks push nobody out; 0 keeps none."""
        for _ in range(10):
            self.house.ask("GET", "/health")
            self.house.ask("GET", "/admin/requests")
        self.assertEqual(len(self.sessions()), 3)
        for _ in range(10):
            self.house.chat(text("x"))
        self.assertEqual(len(self.sessions()), 4)
        self.house.reset(recorder_size=0)
        off = self.house.ask("GET", "/admin/requests")
        self.assertEqual(off.status, 404)
        self.assertIn("recorder_size", off.json["error"]["message"])

    def test_running_stay(self) -> None:
        """Whatever ended goes before what runs: a request that hangs is the one to be asked for."""
        self.house.reset(recorder_size=3)
        self.house.fake.plays(silent())
        self.house.ask("POST", "/v1/messages", body(), {"x-claude-code-session-id": "hanging"})
        for _ in range(5):
            self.house.chat(text("x"))
        self.assertEqual(self.sessions(), ["", "", "hanging"])
        for name in "abc":
            self.house.fake.plays(silent())
            self.house.ask("POST", "/v1/messages", body(), {"x-claude-code-session-id": name})
        self.assertEqual(self.sessions(), ["c", "b", "a"])

    def test_unknown(self) -> None:
        """A request that nobody knows, a path that is none, a method that is none."""
        for method, path, status in (
            ("GET", "/admin/requests/req_x", 404),
            ("GET", "/admin/other", 404),
            ("GET", "/admin/%ff", 404),
            ("GET", "/admin/requests/%ff", 404),
            ("GET", "/admin", 404),
            ("POST", "/admin/requests", 405),
        ):
            answer = self.house.ask(method, path)
            self.assertEqual((answer.status, answer.json["type"]), (status, "error"), path)
            self.assertTrue(answer.headers["request-id"])


class DoorTests(SynchronousTestCase):
    """Who may look."""

    def status(self, house: House, headers: dict[str, str] | None = None) -> int:
        return house.ask("GET", "/admin/requests", None, headers).status

    def test_local(self) -> None:
        """A client on this machine, with or without a key, and whichever keys the proxy has for others."""
        self.assertEqual(self.status(House()), 200)
        self.assertEqual(self.status(House(keys=(Secret("k"),), admin_keys=(Secret(ADMIN),))), 200)

    def test_passed_on(self) -> None:
        """Who comes through a proxy on this machine is not on this machine."""
        house = House()
        for header in ("x-forwarded-for", "forwarded", "via", "x-real-ip", "X-Forwarded-Host"):
            self.assertEqual(self.status(house, {header: "127.0.0.1"}), 403, header)

    def test_passed_on_in_silence(self) -> None:
        """A server in front that adds no header passes the Host of its clients on, or speaks HTTP/1.0 as nginx does."""
        house = House(allowed_hosts=("llm.example.com",))
        for headers in ({"host": "llm.example.com"}, {"host": ""}, {"x-forwarded-proto": "https"}):
            self.assertEqual(self.status(house, headers), 403, headers)
        for host in ("localhost:8080", "127.0.0.2", "[::1]:8080"):
            self.assertEqual(self.status(house, {"host": host}), 200, host)
        old = house.caller().send(b"GET /admin/requests HTTP/1.0\r\nHost: 127.0.0.1:8080\r\n\r\n")
        self.assertEqual(old.status, 403)

    def test_proxy_protocol(self) -> None:
        """Who says himself which address he has is believed nothing: neither that he is here, nor that he came through
        a unix socket, where any Host would do."""
        house = House(keys=(Secret("client-key"),))
        house.network.listeners[FRONT_PORT] = HAProxyWrappingFactory(house.network.listeners[FRONT_PORT])
        path = b"/run/claudeproxy.sock".ljust(108, b"\0")
        through_a_file = b"\r\n\r\n\0\r\nQUIT\n\x21\x31" + (216).to_bytes(2, "big") + path + path
        for claim in (b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n", b"PROXY UNKNOWN \r\n", through_a_file):
            for target, host, status in (
                (b"/admin/requests", b"localhost", 403),
                (b"/health", b"evil.example", 403),
                (b"/health", b"localhost", 200),
            ):
                request = b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, host)
                self.assertEqual(house.caller().send(claim + request).status, status, (claim, target, host))

    def test_admin_key(self) -> None:
        """From elsewhere with an admin key, and with no other."""
        house = House(keys=(Secret("client-key"),), admin_keys=(Secret(ADMIN),))
        far = {"x-forwarded-for": "192.0.2.7"}
        for headers, status in (
            ({}, 401),
            ({"x-api-key": "client-key"}, 401),
            ({"x-api-key": ADMIN}, 200),
            ({"authorization": f"Bearer {ADMIN}"}, 200),
        ):
            self.assertEqual(self.status(house, {**far, **headers}), status, headers)
        self.assertEqual(house.ask("POST", "/v1/messages", body(), {"x-api-key": ADMIN}).status, 401)

    def test_pages(self) -> None:
        """A page in a browser does not get in, by whatever name it calls this machine (DNS rebinding)."""
        house = House()
        for headers in (
            {"host": "evil.example"},
            {"origin": "https://evil.example"},
            {"sec-fetch-site": "cross-site"},
        ):
            self.assertEqual(self.status(house, headers), 403, headers)

    def test_behind_a_prefix(self) -> None:
        """A path that only looks like it leads there is no way in."""
        house = House(keys=(Secret("client-key"),))
        for path in ("/v1/admin/requests", "/x/admin/requests", "//admin/requests"):
            self.assertIn(house.ask("GET", path).status, (401, 404), path)
