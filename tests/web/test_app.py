"""The routes, the gate before them, and their errors (PROTOCOL 1.1, 1.3, 3.1; issue 2, items 3, 4 and 8)."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.expectations import Secret
from tests.fakes.callers import Caller
from tests.fakes.house import BACKEND_KEY, House, body
from tests.fakes.openai import error, json_answer, json_body, text
from tests.stream_checker import check_error, check_message, check_stream

WHOLE = body(stream=False)


class AppCase(SynchronousTestCase):
    """A proxy and its fake backend."""

    def setUp(self) -> None:
        self.house = House()

    def assert_problem(self, caller: Caller, status: int) -> str:
        """It is Anthropic's envelope, with the same id as in the header; its message."""
        self.assertEqual(caller.status, status, caller.raw)
        self.assertEqual(caller.headers["content-type"], "application/json")
        self.assertTrue(caller.ended)
        seen = check_error(caller.json, status)
        self.assertEqual(caller.json["request_id"], caller.headers["request-id"])
        self.assertRegex(caller.headers["request-id"], r"\Areq_\w+\Z")
        return seen.message


class RouteTests(AppCase):
    """Every route."""

    def test_stream(self) -> None:
        """POST /v1/messages with stream answers with events; ?beta=true changes nothing."""
        for path in ("/v1/messages", "/v1/messages?beta=true"):
            caller = self.house.ask("POST", path, body())
            self.assertEqual((caller.status, check_stream(caller.body).text), (200, "Hello world"))
            self.assertTrue(caller.headers["content-type"].startswith("text/event-stream"))
            self.assertEqual(caller.headers["cache-control"], "no-cache")
            self.assertTrue(caller.ended)

    def test_whole(self) -> None:
        """Without stream it answers with one message, though the backend is asked to stream."""
        caller = self.house.ask("POST", "/v1/messages?beta=true", WHOLE)
        found = check_message(caller.json)
        self.assertEqual((caller.status, caller.headers["content-type"]), (200, "application/json"))
        assert found.message is not None
        self.assertEqual((found.text, found.message["model"]), ("Hello world", "claude-sonnet-4-5"))
        self.assertEqual(found.message["stop_reason"], "end_turn")
        (chat,) = self.house.fake.chats
        self.assertIs(chat.json["stream"], True)

    def test_same_answer(self) -> None:
        """Streamed or whole, the answer is the same."""
        script = text("One", " two", finish="length")
        streamed = check_stream(self.house.chat(script).body).message
        whole = check_message(self.house.chat(script, stream=False).json).message
        assert streamed is not None and whole is not None
        self.assertEqual({**streamed, "id": ""}, {**whole, "id": ""})
        self.assertNotEqual(streamed["id"], whole["id"])

    def test_count(self) -> None:
        """POST /v1/messages/count_tokens gives a number and says where it is from; nothing is generated for it."""
        caller = self.house.ask("POST", "/v1/messages/count_tokens?beta=true", body(max_tokens=None, stream=None))
        self.assertEqual(caller.status, 200)
        self.assertEqual(list(caller.json), ["input_tokens"])
        self.assertGreater(caller.json["input_tokens"], 0)
        self.assertEqual(caller.headers["x-claudeproxy-count-source"], "estimate")
        self.assertEqual(self.house.fake.chats, [])

    def test_health(self) -> None:
        """GET /health says that all is well, also while the backend is away."""
        caller = self.house.ask("GET", "/health")
        self.assertEqual((caller.status, caller.body), (200, b'{"status":"ok"}'))

    def test_hello(self) -> None:
        """HEAD / and HEAD /api/hello are answered without a body."""
        for path in ("/", "/api/hello", "/health"):
            caller = self.house.ask("HEAD", path)
            self.assertEqual((caller.status, caller.body), (200, b""), path)
            self.assertIn("request-id", caller.headers)

    def test_models(self) -> None:
        """GET /v1/models lists what can be asked for; GET /v1/models/{id} shows one, also if its name has slashes."""
        self.house.fake.models = ["org/model:7b", "other"]
        self.house = House(models={"claude-sonnet-4-5": "org/model:7b"})
        self.house.fake.models = ["org/model:7b", "other"]
        listed = self.house.ask("GET", "/v1/models?limit=1000").json
        names = [each["id"] for each in listed["data"]]
        self.assertIn("claude-sonnet-4-5", names)
        for name in names:
            caller = self.house.ask("GET", f"/v1/models/{name}")
            self.assertEqual((caller.status, caller.json["id"]), (200, name))
        self.assertIn("nobody", self.assert_problem(self.house.ask("GET", "/v1/models/nobody"), 404))

    def test_ids(self) -> None:
        """Every answer has an id of its own, whatever the answer is."""
        seen = [
            self.house.ask(method, path, data).headers["request-id"]
            for method, path, data in (
                ("POST", "/v1/messages", body()),
                ("POST", "/v1/messages", WHOLE),
                ("POST", "/v1/messages/count_tokens", WHOLE),
                ("GET", "/health", None),
                ("GET", "/v1/models", None),
                ("HEAD", "/", None),
                ("GET", "/nowhere", None),
                ("PUT", "/v1/messages", None),
            )
        ]
        self.assertEqual(len(set(seen)), len(seen))

    def test_prefixes(self) -> None:
        """Clients append /v1/messages to whatever their base URL is; slashes too many do no harm."""
        for path in ("/v1/v1/messages", "/anthropic/v1/messages", "/v1/messages/"):
            check_message(self.house.ask("POST", path, WHOLE).json)


class ErrorTests(AppCase):
    """Always Anthropic's envelope, with the right status."""

    def test_unknown_paths(self) -> None:
        """What is not there is a 404 that names it."""
        for path in ("/nowhere", "/v1", "/v1/", "/v1/message", "/v1/messages/batches", "/health/x", "/%00", "/v1/%ff"):
            self.assertTrue(self.assert_problem(self.house.ask("GET", path), 404), path)

    def test_wrong_methods(self) -> None:
        """A path asked with another method is a 405 that names those it has."""
        for method, path, allowed in (
            ("GET", "/v1/messages", "POST"),
            ("DELETE", "/v1/messages/count_tokens", "POST"),
            ("POST", "/v1/models", "GET"),
            ("PUT", "/health", "GET"),
            ("OPTIONS", "/v1/messages", "POST"),
            ("BREW", "/v1/messages", "POST"),
        ):
            caller = self.house.ask(method, path)
            self.assertIn(method, self.assert_problem(caller, 405))
            self.assertIn(allowed, caller.headers["allow"])

    def test_broken_bodies(self) -> None:
        """A body that is no JSON, or no request, is a 400 that is not worth repeating."""
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            for data in (b"", b"{", b"[]", b"\xff", b"{}", b'{"model":"m","messages":[]}'):
                caller = self.house.ask("POST", path, data)
                self.assert_problem(caller, 400)
                self.assertEqual(caller.headers["x-should-retry"], "false")
        self.assertEqual(self.house.fake.chats, [])

    def test_the_field_is_named(self) -> None:
        """Bad input gets an error that names the field."""
        caller = self.house.ask("POST", "/v1/messages", body(max_tokens="5"))
        self.assertEqual(self.assert_problem(caller, 400), "max_tokens: Input should be a valid integer")

    def test_unservable(self) -> None:
        """What no backend that is translated to can do is refused by name."""
        caller = self.house.ask("POST", "/v1/messages", body(container="c"))
        self.assertTrue(self.assert_problem(caller, 400).startswith("container: "))

    def test_odd_headers(self) -> None:
        """Headers that are no UTF-8 are treated like any other header nobody understands."""
        self.house.reset(keys=(Secret("k"),))
        for name, status in (
            ("host", 403),
            ("origin", 403),
            ("authorization", 401),
            ("x-api-key", 401),
            ("content-encoding", 400),
        ):
            key = {"x-api-key": "k"} if status != 401 else {}
            caller = self.house.ask("POST", "/v1/messages", WHOLE, {**key, name: b"\xff\xfe"})
            self.assert_problem(caller, status)
        caller = self.house.ask("POST", "/v1/messages", WHOLE, {"x-api-key": "k", "x-claude-code-session-id": b"\xff"})
        check_message(caller.json)

    @given(st.sampled_from(["GET", "POST", "HEAD", "PUT", "X"]), st.binary(max_size=12), st.binary(max_size=30))
    @settings(max_examples=60, deadline=None)
    def test_any_request(self, method: str, path: bytes, data: bytes) -> None:
        """Whatever is asked, the answer has an id, and is either good or an envelope; never a page, never a 500."""
        caller = self.house.caller()
        shown = b"".join(b"%%%02x" % each if each < 33 or each > 126 else bytes([each]) for each in path)
        head = b"%b /%b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (method.encode(), shown, len(data))
        caller.send(head + data)
        self.assertIn("request-id", caller.headers)
        if caller.status != 200 and method != "HEAD":
            self.assert_problem(caller, caller.status)
        self.assertLess(caller.status, 500)

    def test_ours(self) -> None:
        """A fault of ours is a 500 that names the request's id, under which the log has the traceback."""

        class Broken:
            def route(self, model: str) -> None:
                raise ZeroDivisionError

            settings = self.house.settings
            interfaces = self.house.proxy._live.interfaces

        self.house.proxy._live = Broken()  # type: ignore[assignment]
        caller = self.house.ask("POST", "/v1/messages", WHOLE)
        message = self.assert_problem(caller, 500)
        self.assertIn(caller.headers["request-id"], message)
        (failed,) = (event for event in self.house.events if "log_failure" in event)
        self.assertEqual(failed["request_id"], caller.headers["request-id"])
        self.assertIs(failed["log_failure"].type, ZeroDivisionError)


class BackendErrorTests(AppCase):
    """What a backend refuses at once is a real HTTP status (PROTOCOL 3.2)."""

    def test_statuses(self) -> None:
        """Its status passes, or becomes the one that makes clients do the right thing; its words and name are kept."""
        for status, answered in {
            400: 400,
            401: 401,
            403: 403,
            404: 404,
            429: 429,
            402: 402,
            503: 529,
            422: 422,
        }.items():
            for streamed in (True, False):
                script = error(status, {"error": {"message": "no such luck", "code": None}})
                caller = self.house.chat(script, stream=streamed)
                message = self.assert_problem(caller, answered)
                self.assertIn("no such luck", message)
                self.assertIn("fake", message)

    def test_headers(self) -> None:
        """retry-after is passed on; a refused key is not to be tried again."""
        caller = self.house.chat(error(429, {"error": {"message": "slow"}}, {"retry-after": "7"}))
        self.assertEqual(caller.headers["retry-after"], "7")
        self.assertNotIn("x-should-retry", caller.headers)
        for status in (401, 403):
            caller = self.house.chat(error(status, {"error": {"message": "bad key"}}))
            self.assertEqual(caller.headers["x-should-retry"], "false")

    def test_too_long(self) -> None:
        """An overflow is told in the words that make Claude Code compact."""
        said = {
            "code": 400,
            "message": "request (210 tokens) exceeds the available context size (200 tokens), try increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 210,
            "n_ctx": 200,
        }
        caller = self.house.chat(error(400, {"error": said}))
        self.assertEqual(self.assert_problem(caller, 400), "prompt is too long: 210 tokens > 200 maximum")

    def test_unreachable(self) -> None:
        """A backend that is not there is an overload, which clients repeat, and is named."""
        self.house.network.listeners.pop(9000)
        self.house.pass_time(10)  # the connection that lay idle is closed
        for streamed in (True, False):
            caller = self.house.ask("POST", "/v1/messages", body(stream=streamed))
            self.house.pass_time(1)
            self.assertIn("fake", self.assert_problem(caller, 529))

    def test_error_in_200(self) -> None:
        """An error that a backend hides in a 200 is a real HTTP status as long as nothing was said."""
        caller = self.house.chat(json_body({"error": {"code": 402, "message": "no credit"}}))
        self.assertIn("no credit", self.assert_problem(caller, 402))

    def test_json_for_stream(self) -> None:
        """A backend that does not stream is understood."""
        caller = self.house.chat(json_answer("Hello"))
        self.assertEqual(check_stream(caller.body).text, "Hello")


class GateTests(AppCase):
    """Closed by default."""

    def test_keys(self) -> None:
        """With keys set every route wants one, in either header; only the signs of life do without."""
        self.house.reset(keys=(Secret("one"), Secret("two")))
        for method, path in (("POST", "/v1/messages"), ("POST", "/v1/messages/count_tokens"), ("GET", "/v1/models")):
            for headers in ({}, {"x-api-key": "three"}, {"authorization": "Bearer three"}, {"authorization": "one"}):
                caller = self.house.ask(method, path, WHOLE, headers)
                self.assertNotIn("one", self.assert_problem(caller, 401).split())
                self.assertEqual(caller.headers["x-should-retry"], "false")
            for headers in ({"x-api-key": "one"}, {"authorization": "Bearer two"}):
                self.assertEqual(self.house.ask(method, path, WHOLE, headers).status, 200)
        for method, path in (("GET", "/health"), ("HEAD", "/"), ("HEAD", "/api/hello")):
            self.assertEqual(self.house.ask(method, path).status, 200)
        for path in ("/nowhere", "/health/..", "/x/v1/models", "/v1/health", "//v1/messages"):
            self.assert_problem(self.house.ask("GET", path), 401)

    def test_key_is_ours(self) -> None:
        """The client's key stays here; the backend gets its own."""
        self.house.reset(keys=(Secret("one"),))
        self.house.ask("POST", "/v1/messages", WHOLE, {"x-api-key": "one"})
        (chat,) = self.house.fake.chats
        self.assertEqual(chat.header("authorization"), f"Bearer {BACKEND_KEY}")
        self.assertNotIn("one", repr(chat.headers).replace("None", ""))

    def test_hosts(self) -> None:
        """A name that is not ours is refused on every route, before anything is read."""
        for path in ("/v1/messages", "/health", "/"):
            caller = self.house.ask("POST", path, b"{", {"host": "rebound.example:8080"})
            self.assertIn("allowed_hosts", self.assert_problem(caller, 403))
        self.house.reset(allowed_hosts=("host.docker.internal",))
        caller = self.house.ask("POST", "/v1/messages", WHOLE, {"host": "host.docker.internal:8080"})
        self.assertEqual(caller.status, 200)

    def test_origins(self) -> None:
        """A web page is refused, unless its origin is allowed."""
        caller = self.house.ask("POST", "/v1/messages", WHOLE, {"origin": "https://evil.example"})
        self.assert_problem(caller, 403)
        self.assertNotIn("access-control-allow-origin", caller.headers)
        self.house.reset(allowed_origins=("https://app.example",))
        self.assertEqual(self.house.ask("POST", "/v1/messages", WHOLE, {"origin": "https://app.example"}).status, 200)
        self.assertEqual(self.house.fake.chats[0].header("origin"), None)


class DroppedTests(AppCase):
    """Nothing is lost silently."""

    def dropped(self, **fields: Any) -> set[str]:
        caller = self.house.ask("POST", "/v1/messages", body(**fields))
        check_stream(caller.body)
        header = caller.headers.get("x-claudeproxy-dropped", "")
        warned = [event for event in self.house.events if event["log_level"].name == "warn"]
        self.assertEqual(bool(header), bool(warned))
        self.house.events.clear()
        return set(header.split(", ")) if header else set()

    def test_named(self) -> None:
        """What cannot be sent is named in the header and in the log; a request that lost nothing has no header."""
        self.assertEqual(self.dropped(), set())
        self.assertEqual(self.dropped(zork=1, top_k=5), {"zork", "top_k"})
        block = {"type": "hologram", "data": 1}
        content = [{"type": "text", "text": "Hi"}, block, block]
        self.assertEqual(self.dropped(messages=[{"role": "user", "content": content}]), {"hologram"})

    def test_odd_names(self) -> None:
        """A name that would be two headers, or two lines of the log, is neither."""
        caller = self.house.ask("POST", "/v1/messages", body(**{"a\r\nset-cookie: b\x00\x1b[1m": 1, "ü": 1}))
        check_stream(caller.body)
        self.assertNotIn("set-cookie", caller.headers)
        self.assertRegex(caller.headers["x-claudeproxy-dropped"], r"\A[ -~]*\Z")
        for line in self.house.lines:
            self.assertNotRegex(line, r"[\x00-\x1f]")

    def test_bounded(self) -> None:
        """A thousand unknown fields do not make a header that no client reads."""
        caller = self.house.ask("POST", "/v1/messages", body(**{f"field_{n}": 1 for n in range(5000)}))
        check_stream(caller.body)
        self.assertLess(len(caller.headers["x-claudeproxy-dropped"]), 2000)


class ModelTests(AppCase):
    """Names of models."""

    def test_mapped(self) -> None:
        """The backend is asked for its own model; the answer says the name that the client asked for."""
        self.house.reset(models={"claude-sonnet-4-5": "qwen", "haiku": "small"})
        for asked, sent in (
            ("claude-sonnet-4-5", "qwen"),
            ("Claude-Sonnet-4-5-20250929[1m]", "qwen"),
            ("claude-3-5-haiku-latest", "small"),
        ):
            caller = self.house.ask("POST", "/v1/messages", body(model=asked, stream=False))
            self.assertEqual(caller.json["model"], asked)
            self.assertEqual(self.house.fake.chats[-1].json["model"], sent)

    def test_reload(self) -> None:
        """A request that runs during a reload ends on the settings it began with."""
        self.house.reset(models={"claude-sonnet-4-5": "old"})
        caller = self.house.chat(text("Hello", " world").paced(1))
        self.house.reset(models={"claude-sonnet-4-5": "new"})
        self.house.pass_time(10)
        self.assertEqual(check_stream(caller.body).text, "Hello world")
        self.house.ask("POST", "/v1/messages", body())
        self.assertEqual([chat.json["model"] for chat in self.house.fake.chats], ["old", "new"])

    def test_system_and_turns(self) -> None:
        """System prompts of both kinds, turns, and the parameters reach the backend."""
        turns = [("user", "1"), ("assistant", "2"), ("user", "3")]
        self.house.ask(
            "POST",
            "/v1/messages",
            body(
                system=[{"type": "text", "text": "S1"}, {"type": "text", "text": "S2"}],
                messages=[{"role": role, "content": words} for role, words in turns],
                temperature=0.5,
                top_p=0.9,
            ),
        )
        sent = json.loads(self.house.fake.chats[0].body)
        self.assertEqual(sent["messages"][0], {"role": "system", "content": "S1\n\nS2"})
        self.assertEqual([(each["role"], each["content"]) for each in sent["messages"][1:]], turns)
        self.assertEqual((sent["temperature"], sent["top_p"], sent["max_tokens"]), (0.5, 0.9, 64))
