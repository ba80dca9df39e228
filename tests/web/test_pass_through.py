"""The whole proxy in memory before an Anthropic server: bytes both ways (PROTOCOL 4.10, issue 4)."""

import gzip
import json
from collections.abc import Mapping
from typing import Any

from attrs import evolve
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.expectations import Secret
from claudeproxy.routing.keys import key_of
from claudeproxy.translate.signatures import Reasoning, sign
from tests.fakes import anthropic
from tests.fakes.callers import Caller
from tests.fakes.house import BACKEND_KEY, BACKEND_PORT, House, rendered
from tests.fakes.openai import Cut, Hang, Headers, Script, Send, Wait, error, json_body
from tests.fakes.scripts import step_bytes
from tests.stream_checker import check_error, check_stream

#: Written as no library of ours would write it.
ODD = (
    b'{ "max_tokens" : 64, "stream":true,\n\t"temperature": 1e0, "model":"claude-sonnet-4-5", "x_new": [1.50, -0],'
    b'"messages":[{"content":"caf\\u00e9 \xc3\xa9","role":"user"}] }\n'
)


class PassThroughCase(SynchronousTestCase):
    def house(self, backend: Mapping[str, Any] | None = None, **settings: Any) -> House:
        told = {"provider": "anthropic", "base_url": f"http://127.0.0.1:{BACKEND_PORT}", **(backend or {})}
        house = House("auto", told, make_fake=anthropic.FakeAnthropic, **settings)
        house.fake.received.clear()
        return house

    def backend_ends(self, house: House) -> list[Any]:
        return [end for end in house.network.ends[::2] if end.port == BACKEND_PORT and not end.is_lost]

    def headers(self, house: House) -> dict[str, str]:
        """Those that the server received last, by name in lower case."""
        named = house.fake.received[-1].headers.getAllRawHeaders()
        return {name.decode().lower(): b", ".join(values).decode() for name, values in named}

    def post(self, house: House, body: object = ODD, **headers: str | bytes | None) -> Caller:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return house.ask("POST", "/v1/messages?beta=true", body, named)


class RequestTests(PassThroughCase):
    """What the server receives."""

    def test_bytes(self) -> None:
        """The body arrives as the client wrote it, byte for byte, under the same path and query."""
        house = self.house()
        self.post(house)
        received = house.fake.received[-1]
        self.assertEqual((received.method, received.path, received.body), ("POST", "/v1/messages", ODD))
        self.assertEqual(received.query, "beta=true")

    def test_prefix(self) -> None:
        """What a client puts in front of /v1 is its affair, and does not travel on."""
        house = self.house()
        house.ask("POST", "/team/v1/v1/messages", ODD)
        self.assertEqual(house.fake.received[-1].path, "/v1/messages")

    def test_content_type(self) -> None:
        """What the client says that its body is arrives."""
        house = self.house()
        for kind in ("application/json; charset=utf-8", "text/plain"):
            self.post(house, content_type=kind)
            self.assertEqual(self.headers(house)["content-type"], kind)

    def test_byte_order_mark(self) -> None:
        """A mark before the JSON stays behind: no server expects it."""
        house = self.house(models={"claude-sonnet-*": "other model"})
        self.post(house, b"\xef\xbb\xbf" + ODD)
        self.assertEqual(house.fake.received[-1].body, ODD.replace(b'"claude-sonnet-4-5"', b'"other model"'))

    def test_model_map(self) -> None:
        """The model map changes the model's name, and not one byte beside it."""
        house = self.house(models={"claude-sonnet-*": "other model"})
        self.post(house)
        self.assertEqual(house.fake.received[-1].body, ODD.replace(b'"claude-sonnet-4-5"', b'"other model"'))

    def test_headers(self) -> None:
        """Headers that nobody here knows go on; the client's key does not, the backend's own is shown instead."""
        house = self.house(keys=(Secret("clients-key"),))
        self.post(
            house,
            x_api_key="clients-key",
            anthropic_beta="new-2027-01-01",
            x_claude_code_session_id="s",
            user_agent="claude-cli/9",
            anthropic_version="2026-10-21",
        )
        headers = self.headers(house)
        self.assertEqual(headers["anthropic-beta"], "new-2027-01-01")
        self.assertEqual(headers["anthropic-version"], "2026-10-21")
        self.assertEqual(headers["user-agent"], "claude-cli/9")
        self.assertEqual(headers["x-claude-code-session-id"], "s")
        self.assertEqual(headers["x-api-key"], BACKEND_KEY)
        self.assertNotIn("clients-key", str(headers))

    def test_clients_credentials(self) -> None:
        """With `credentials = "client"` the client's own key goes on, and one of the proxy's keys never does."""
        house = self.house({"credentials": "client", "api_key": Secret("")}, keys=(Secret("gate-key"),))
        self.post(house, x_api_key="gate-key", authorization="Bearer sk-ant-oat-mine")
        headers = self.headers(house)
        self.assertEqual(headers["authorization"], "Bearer sk-ant-oat-mine")
        self.assertNotIn("gate-key", str(headers))

    def test_whose_credentials(self) -> None:
        """A key of the proxy's stays here in whichever header it came, however it is kept; any other goes on."""
        known = (key_of("gate-key", "alice"), key_of("other-key"))
        house = self.house({"credentials": "client", "api_key": Secret("")}, keys=known)
        for shown, passed in (
            ({"x_api_key": "sk-mine", "authorization": "bearer gate-key"}, {"x-api-key": "sk-mine"}),
            ({"x_api_key": "gate-key", "authorization": "Bearer other-key"}, {}),
            ({"x_api_key": "gate-key", "authorization": "Basic YTpi"}, {"authorization": "Basic YTpi"}),
        ):
            self.post(house, **shown)
            headers = self.headers(house)
            self.assertEqual(
                {name: headers[name] for name in ("x-api-key", "authorization") if name in headers}, passed
            )

    def test_credentials_twice(self) -> None:
        """Of a header that came twice no key of the proxy's goes on either, though only the last one lets in."""
        house = self.house({"credentials": "client", "api_key": Secret("")}, keys=(key_of("gate-key"), key_of("other")))
        head = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n" % len(ODD)
        for name, form in ((b"x-api-key", b"%b"), (b"authorization", b"Bearer %b")):
            values = (form % b"other", form % b"theirs", form % b"gate-key")
            house.caller().send(head + b"".join(name + b": " + each + b"\r\n" for each in values) + b"\r\n" + ODD)
            (received,) = house.fake.received
            passed = str(received.headers)
            self.assertIn("theirs", passed)
            self.assertNotIn("gate-key", passed)
            self.assertNotIn("other", passed)
            house.fake.received.clear()

    def test_our_signatures(self) -> None:
        """Thoughts with a signature of ours are taken out: a real server would refuse them. Others stay as they are."""
        ours = {"type": "thinking", "thinking": "hm", "signature": sign(Reasoning("reasoning_content"))}
        theirs = {"type": "thinking", "thinking": "hm", "signature": "EqQB"}
        asked = {
            "model": "m",
            "max_tokens": 9,
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": [ours, {"type": "text", "text": "a"}]},
                {"role": "user", "content": "and"},
                {"role": "assistant", "content": [theirs, {"type": "text", "text": "b"}]},
                {"role": "user", "content": "on"},
            ],
        }
        house = self.house()
        self.post(house, asked)
        received = json.loads(house.fake.received[-1].body)
        self.assertEqual(received["messages"][1]["content"], [{"type": "text", "text": "a"}])
        self.assertEqual(received["messages"][3]["content"][0], theirs)

    def test_unknown_to_us(self) -> None:
        """What this proxy would refuse is for the server to judge."""
        house = self.house()
        body = {"model": "m", "messages": [{"role": "critic", "content": 7}], "max_tokens": "many"}
        self.assertEqual(self.post(house, body).status, 200)
        check_error(self.post(house, b"{no json").json, 400)
        check_error(self.post(house, {"messages": []}).json, 400)

    def test_count_tokens(self) -> None:
        """Counts are asked of the server, and its answer comes back."""
        house = self.house()
        caller = house.ask("POST", "/v1/messages/count_tokens?beta=true", ODD)
        self.assertEqual(caller.json, {"input_tokens": 42})
        self.assertEqual(house.fake.received[-1].body, ODD)

    def test_models(self) -> None:
        """The server's models are listed as it tells of them."""
        house = self.house()
        listed = house.ask("GET", "/v1/models").json["data"]
        self.assertEqual([each["id"] for each in listed if each["id"] in house.fake.models], house.fake.models)
        self.assertEqual(listed[0]["display_name"], house.fake.models[0].title())


class AnswerTests(PassThroughCase):
    """What the client receives."""

    def test_bytes(self) -> None:
        """The answer arrives as the server wrote it, whatever it is."""
        house = self.house()
        odd = b'event: message_start\r\ndata: {"type":"message_start" , "x":1.0}\r\n\r\n: note\n\ndata: [DONE]\n\n'
        odd += b'data:{"type":"message_stop"}\r\r'
        house.fake.plays(Script(steps=[Send(odd[:7]), Send(odd[7:])], headers=anthropic.HEADERS))
        caller = self.post(house)
        self.assertEqual(caller.body, odd)
        self.assertTrue(caller.ended)

    def test_headers(self) -> None:
        """The server's headers come back, its request-id among them; ours stands beside it."""
        house = self.house()
        caller = self.post(house)
        self.assertEqual(caller.headers["request-id"], "req_theirs")
        self.assertEqual(caller.headers["anthropic-ratelimit-requests-remaining"], "49")
        self.assertTrue(caller.headers["x-claudeproxy-request-id"].startswith("req_0"))
        check_stream(caller.body)

    def test_errors(self) -> None:
        """Errors come back untouched: status, headers, body."""
        house = self.house()
        body = b'{"type":"error","error":{"type":"rate_limit_error","message":"odd  words"} }'
        house.fake.plays(Script(status=429, steps=[Send(body)], headers={"retry-after": "7", "x-should-retry": "true"}))
        caller = self.post(house)
        self.assertEqual((caller.status, caller.body), (429, body))
        self.assertEqual((caller.headers["retry-after"], caller.headers["x-should-retry"]), ("7", "true"))

    def test_own_key(self) -> None:
        """But for the proxy's own key: in an error of any length it is blotted out, however it is cut. What a client
        gets without an error is never looked into."""
        body = b'{"error": "%b", "and": "%b and sk-backend-"}' % ((BACKEND_KEY.encode(),) * 2)
        told = body.replace(BACKEND_KEY.encode(), b"*" * len(BACKEND_KEY))
        house = self.house(recorder_content=True)
        for size in (1, 7, len(body)):
            pieces = [Send(body[at : at + size]) for at in range(0, len(body), size)]
            for headers in ({}, {"content-length": str(len(body))}):
                house.fake.plays(Script(status=401, steps=pieces, headers=headers))
                self.assertEqual(self.post(house).body, told)
        self.assertNotIn(BACKEND_KEY.encode(), house.ask("GET", "/admin/requests/last").raw)
        house.fake.plays(Script(steps=[Send(body)]))
        self.assertEqual(self.post(house).body, body)

    def test_no_key_to_hide(self) -> None:
        """A key of a few letters is a word for none, and may stand anywhere."""
        house = self.house({"api_key": Secret("none")})
        house.fake.plays(Script(status=500, steps=[Send(b"none of it")]))
        self.assertEqual(self.post(house).body, b"none of it")

    def test_out_of_reach(self) -> None:
        """A server that cannot be reached is an error of ours that names it."""
        house = self.house({"base_url": "http://127.0.0.1:9"})
        caller = self.post(house)
        house.pass_time(1)
        self.assertIn("fake", check_error(caller.json, 529).message)

    def test_pings(self) -> None:
        """A silent stream gets pings, but never inside an event."""
        house = self.house()
        whole = b'event: ping\ndata: {"type": "ping"}\n\n'
        house.fake.plays(
            Script(
                steps=[Send(whole), Wait(15), Send(whole[:9]), Wait(60), Send(whole[9:]), Hang()],
                headers=anthropic.HEADERS,
            )
        )
        caller = self.post(house)
        house.pass_time(14)
        self.assertEqual(caller.body.count(b"event: ping"), 2)
        house.pass_time(50)
        self.assertTrue(caller.body.endswith(whole[:9]))
        house.pass_time(12)
        self.assertTrue(caller.body.endswith(whole))

    def test_broken_between_events(self) -> None:
        """A stream that breaks between two events ends with an error event."""
        house = self.house()
        house.fake.plays(
            Script(steps=[Send(b'event: ping\ndata: {"type": "ping"}\n\n'), Cut()], headers=anthropic.HEADERS)
        )
        caller = self.post(house)
        self.assertIn(b"event: error\n", caller.body)
        self.assertTrue(caller.ended)

    def test_broken_within_an_event(self) -> None:
        """A stream that breaks within an event is cut: no clean end, and nothing that could be misread."""
        house = self.house()
        house.fake.plays(Script(steps=[Send(b'event: ping\ndata: {"ty'), Cut()], headers=anthropic.HEADERS))
        caller = self.post(house)
        self.assertFalse(caller.ended)
        self.assertTrue(caller.body.endswith(b'{"ty'))

    def test_client_gone(self) -> None:
        """A client that leaves hangs up on the server, before its headers and after."""
        for steps in ([Hang()], [Send(b"event: ping\n"), Hang()]):
            house = self.house()
            house.fake.plays(Script(steps=steps, headers=anthropic.HEADERS))
            caller = self.post(house)
            self.assertEqual(len(self.backend_ends(house)), 1)
            caller.vanish()
            house.pass_time(1)
            self.assertEqual(self.backend_ends(house), [])
            self.assertEqual(len(house.proxy._exchanges), 0)
            self.assertEqual(house.network.timers("Relay"), [])

    def test_slow_client(self) -> None:
        """A client that does not read pauses the server."""
        house = self.house()
        piece = Send(b"data: " + b"x" * 65_536 + b"\n\n")
        house.fake.plays(Script(steps=[piece] * 40 + [Hang()], headers=anthropic.HEADERS))
        caller = house.caller()
        caller.transport.pauseProducing()
        caller.ask("POST", "/v1/messages", ODD)
        house.pass_time(1)
        self.assertTrue(self.backend_ends(house)[0].is_paused)
        caller.transport.resumeProducing()
        house.pass_time(1)
        self.assertEqual(caller.body.count(b"data: "), 40)

    def test_log(self) -> None:
        """The log line tells counts and outcome, no content and no key."""
        house = self.house()
        self.post(house)
        line = house.request_lines[-1]
        self.assertEqual((line["outcome"], line["input_tokens"], line["cached_tokens"]), ("end_turn", 12, 5))
        self.assertIsNotNone(line["first_token"])
        shown = rendered(house.events)
        for secret in (BACKEND_KEY, "caf\u00e9"):
            self.assertNotIn(secret, shown)

    def test_hostile_words(self) -> None:
        """A server's own word for how it ended is no order to a terminal, and no second line of the log."""
        word = "odd\x1b[31m\u202e\nline"
        for house in (self.house(), self.house({"repair": True})):
            for script in (
                anthropic.stream(anthropic.text("Hi"), stop_reason=word),
                error(400, {"type": "error", "error": {"type": word, "message": "no"}}),
            ):
                house.fake.plays(script)
                self.post(house)
            for event in house.request_lines:
                self.assertTrue(str(event["outcome"]).isprintable(), event["outcome"])
                self.assertNotIn(" ", event["outcome"])

    def test_drain(self) -> None:
        """A daemon that stops ends a stream with an error event."""
        house = self.house()
        house.fake.plays(
            Script(steps=[Send(b'event: ping\ndata: {"type": "ping"}\n\n'), Hang()], headers=anthropic.HEADERS)
        )
        caller = self.post(house)
        stopped = house.proxy.stopService()
        house.pass_time(31)
        self.assertIn(b"overloaded_error", caller.body)
        self.successResultOf(stopped)


class AcquaintanceTests(PassThroughCase):
    """What is known of the server, and kept true (issue 4, "Probing")."""

    def said(self, house: House, words: str) -> int:
        return len([line for line in house.lines if words in line])

    def windows(self, house: House) -> dict[str, int | None]:
        caller = house.ask("GET", "/v1/models?limit=1000")
        house.pass_time(2)
        return {each["id"]: each["max_input_tokens"] for each in caller.json["data"]}

    def test_gone_and_back(self) -> None:
        """A server that goes is told of once, and once when it is back, with its models as they are then."""
        house = self.house()
        self.assertEqual(self.said(house, "fake speaks Anthropic's API and offers"), 1)
        listener = house.network.listeners.pop(BACKEND_PORT)
        for end in list(house.network.ends):
            if end.port == BACKEND_PORT:
                end.abortConnection()
        for _ in range(3):
            caller = self.post(house)
            house.pass_time(1)
            check_error(caller.json, 529)
        self.assertEqual((self.said(house, "fake is away"), self.said(house, "fake is back")), (1, 0))
        self.assertNotIn("new", self.windows(house))
        house.fake.models = ["new"]
        house.network.listeners[BACKEND_PORT] = listener
        house.pass_time(10)
        self.assertEqual((self.said(house, "fake is away"), self.said(house, "fake is back: it speaks")), (1, 1))
        self.assertIn("new", self.windows(house))
        house.proxy.stopService()
        house.pass_time(1)
        self.assertEqual(house.network.timers("Watch"), [])

    def test_list_grows_old(self) -> None:
        """A list that is older than a minute is asked for anew by whoever wants it."""
        house = self.house()
        house.fake.models = ["new"]
        house.pass_time(61)
        self.windows(house)
        house.pass_time(1)
        self.assertIn("new", self.windows(house))
        self.assertEqual(self.said(house, "fake has changed: it now"), 1)

    def test_not_ready(self) -> None:
        """A server that still loads its model is away, and is not taken for one without models."""
        house = self.house()
        house.fake.others["GET", "/v1/models"] = lambda _: json_body({"error": "Loading model"}, 503)
        house.reset(backends=(evolve(house.settings.backends[0], name="slow"),))
        house.pass_time(2)
        self.assertEqual(self.said(house, "slow is away"), 1)

    def test_window_of_llama(self) -> None:
        """llama.cpp tells its window beside its list."""
        house = self.house()
        models = {"object": "list", "data": [{"id": "tiny", "object": "model", "owned_by": "llamacpp"}]}
        properties = {"default_generation_settings": {"n_ctx": 8192}, "total_slots": 1}
        house.fake.others["GET", "/v1/models"] = lambda _: json_body(models)
        house.fake.others["GET", "/props"] = lambda _: json_body(properties)
        house.reset(backends=(evolve(house.settings.backends[0], name="llama"),))
        house.pass_time(2)
        self.assertEqual(self.windows(house)["tiny"], 8192)

    def test_window_of_vllm(self) -> None:
        """vLLM tells it in its list, in words of its own."""
        house = self.house()
        models = {"object": "list", "data": [{"id": "big", "owned_by": "vllm", "max_model_len": 65_536}]}
        house.fake.others["GET", "/v1/models"] = lambda _: json_body(models)
        house.reset(backends=(evolve(house.settings.backends[0], name="vllm"),))
        house.pass_time(2)
        house.fake.received.clear()
        self.assertEqual(self.windows(house)["big"], 65_536)
        self.assertEqual(house.fake.received, [])

    def test_window_as_told(self) -> None:
        """A list that tells the windows is enough: nothing else is asked. The settings' window beats it."""
        house = self.house()
        entry = {"type": "model", "id": "m", "display_name": "M", "max_input_tokens": 200_000, "max_tokens": 64_000}
        house.fake.others["GET", "/v1/models"] = lambda _: json_body({"data": [entry], "has_more": False})
        for name, window, expected in (("own", 0, 200_000), ("set", 5000, 5000)):
            house.fake.received.clear()
            house.reset(backends=(evolve(house.settings.backends[0], name=name, context_window=window),))
            house.pass_time(2)
            self.assertEqual([received.path for received in house.fake.received], ["/v1/models"])
            self.assertEqual(self.windows(house)["m"], expected)


class RepairTests(PassThroughCase):
    """A server that only resembles Anthropic's, with `repair`."""

    def repaired(self, **settings: Any) -> House:
        return self.house({"repair": True}, **settings)

    def test_stream(self) -> None:
        """Its faulty stream leaves as a legal one, and what it receives is still the client's own bytes."""
        house = self.repaired()
        house.fake.plays(anthropic.llama_stream(anthropic.thinking("hm"), anthropic.text("Hello")))
        caller = self.post(house)
        self.assertEqual(check_stream(caller.body).text, "Hello")
        self.assertEqual(house.fake.received[-1].body, ODD)

    def test_whole(self) -> None:
        """A client that does not stream gets a message; the server is asked for a stream, which can be cancelled."""
        house = self.repaired()
        caller = self.post(house, ODD.replace(b'"stream":true', b'"stream": false'))
        self.assertEqual(caller.json["type"], "message")
        self.assertEqual(house.fake.received[-1].body, ODD.replace(b'"stream":true', b'"stream": true'))

    def test_errors(self) -> None:
        """Its errors leave in the envelope, an overflow in the words that make Claude Code compact."""
        house = self.repaired()
        said = {"code": 400, "message": "request (9000 tokens) exceeds the available context size (8192 tokens)"}
        house.fake.plays(error(400, {"error": {**said, "type": "exceed_context_size_error"}}))
        problem = check_error(self.post(house).json, 400)
        self.assertEqual(problem.message, "prompt is too long: 9000 tokens > 8192 maximum")

    def test_believed_window(self) -> None:
        """The window that clients believe in counts for answers and counts alike, or, where they are passed on as they
        are, for neither."""
        for repair, factor in ((True, 10), (False, 1)):
            for counts in (42, None):
                house = self.house({"repair": repair, "context_window": 8192}, client_window=81_920)
                house.fake.count = counts  # type: ignore[attr-defined]
                counted = house.ask("POST", "/v1/messages/count_tokens", ODD).json["input_tokens"]
                self.assertEqual(counted > 90, repair, (repair, counts, counted))
                message = check_stream(self.post(house).body).message
                assert message is not None
                self.assertEqual(message["usage"]["input_tokens"], 12 * factor)

    def near(self, counted: int | None, words: int, **fields: Any) -> tuple[House, Caller]:
        """A prompt for a server whose window is 8,192 tokens, and which counts so many."""
        house = self.house({"repair": True, "context_window": 8192})
        house.fake.count = counted  # type: ignore[attr-defined]
        asked = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "word " * words}]}
        return house, self.post(house, {**asked, "max_tokens": 128_000, **fields})

    def test_window(self) -> None:
        """A prompt near the window is counted by the server, and its answer may have what is left."""
        thinking = {"type": "enabled", "budget_tokens": 31_999, "display": "omitted"}
        house, caller = self.near(6192, 6000, thinking=thinking, temperature=1)
        check_stream(caller.body)
        counted, sent = house.fake.received
        self.assertEqual((counted.path, counted.query), ("/v1/messages/count_tokens", "beta=true"))
        self.assertEqual(set(counted.json), {"model", "messages", "thinking"})
        self.assertEqual((sent.path, sent.json["max_tokens"]), ("/v1/messages", 2000))
        self.assertEqual(sent.json["thinking"], {**thinking, "budget_tokens": 1500})
        self.assertEqual(sent.json["messages"], counted.json["messages"])

    def test_far_from_the_window(self) -> None:
        """Elsewhere an estimate is enough, and what has room stays as it is."""
        house, caller = self.near(42, 100, max_tokens=4000, thinking={"type": "enabled", "budget_tokens": 3999})
        check_stream(caller.body)
        (sent,) = house.fake.received
        self.assertEqual((sent.json["max_tokens"], sent.json["thinking"]["budget_tokens"]), (4000, 3999))

    def test_above_the_window(self) -> None:
        """A prompt that cannot fit is answered at once, with true numbers where the server counts."""
        for counted, words in ((8300, "prompt is too long: 8300 tokens > 8192 maximum"), (None, "prompt is too long")):
            house, caller = self.near(counted, 12_000)
            self.assertEqual(check_error(caller.json, 400).message, words)
            self.assertEqual([each.path for each in house.fake.received if each.path == "/v1/messages"], [])

    def test_silent_cuts(self) -> None:
        """A server of a family that shortens long prompts in silence never gets one that may be too long."""
        statuses = []
        for owner in ("nobody", "organization_owner"):
            listing = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": owner}]}
            told = {"provider": "anthropic", "base_url": f"http://127.0.0.1:{BACKEND_PORT}"}
            told |= {"repair": True, "context_window": 8192}
            others = {("GET", "/v1/models"): lambda _, listing=listing: json_body(listing)}
            house = House("auto", told, others, anthropic.FakeAnthropic)
            house.fake.count = None  # type: ignore[attr-defined]
            asked = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "word " * 7000}]}
            statuses.append(self.post(house, {**asked, "max_tokens": 128_000}).status)
        self.assertEqual(statuses, [200, 400])

    def test_count_without_a_route(self) -> None:
        """A server that cannot count is no reason for an error."""
        house = self.repaired()
        house.fake.count = None  # type: ignore[attr-defined]
        caller = house.ask("POST", "/v1/messages/count_tokens", ODD)
        self.assertGreater(caller.json["input_tokens"], 5)
        self.assertEqual(caller.headers["x-claudeproxy-count-source"], "estimate")


class OtherPathTests(PassThroughCase):
    """What Anthropic's service has beside messages (PROTOCOL 1.1)."""

    def test_forwarded(self) -> None:
        """Files, batches and whatever else is asked for below /v1 goes on to a default backend that speaks so."""
        house = self.house()
        for method, path in (
            ("GET", "/v1/files?limit=3"),
            ("DELETE", "/v1/messages/batches/b"),
            ("GET", "/v1/messages"),
        ):
            caller = house.ask(method, path)
            received = house.fake.received[-1]
            self.assertEqual((received.method, received.path), (method, path.partition("?")[0]))
            self.assertEqual(caller.status, 404)
            self.assertEqual(caller.headers["x-claudeproxy-request-id"][:4], "req_")

    def test_no_way_out(self) -> None:
        """Nothing leads out of /v1, where our credentials would open what else the server has."""
        house = self.house()
        for path in (
            "/v1/../../key/list",
            "/v1/x/./..",
            "/v1/%2e%2e/key/list",
            "/v1/.%2E/key/list",
            "/v1/%252e%252E/key/list",
            "/v1/..;a=b/key/list",
            "/v1/%2e%2e%3b/key/list",
            "/v1/..%2fkey/list",
            "/v1/x%2F..%2F..%2Fkey",
            "/v1/..%5ckey",
            "/v1/..\\key",
            "/v1/%255c",
            "/key/list/%76%31/x",
            "/v1/messages/../../../key/list",
            "/v1/x/..?y=z",
        ):
            for method in ("GET", "POST"):
                self.assertEqual(check_error(house.ask(method, path).json, 404).type, "not_found_error", path)
        self.assertEqual(house.fake.received, [])
        for path in ("/v1/files/a.b..c", "/v1/...", "/v1/files?path=../x%2f.."):
            house.ask("GET", path)
            self.assertEqual(house.fake.received[-1].path, path.partition("?")[0])

    def test_not_forwarded(self) -> None:
        """Nothing beside /v1 is, and nothing where the answers are translated."""
        house = self.house()
        house.ask("GET", "/elsewhere")
        self.assertEqual(house.fake.received, [])
        house = self.house({"repair": True})
        check_error(house.ask("GET", "/v1/files").json, 404)
        self.assertEqual(house.fake.received, [])


class RelayTests(PassThroughCase):
    """What an answer that is passed on may bring, and what may happen to it on the way."""

    def answered(self, said: bytes) -> tuple[House, Caller]:
        """By a server that says these very bytes."""
        house = self.house()
        house.pass_time(10)  # the connection over which the models were asked for is not kept
        house.network.listeners[BACKEND_PORT] = Answers(said)
        return house, self.post(house)

    def exchange(self, script: Script) -> tuple[House, Caller]:
        house = self.house()
        house.fake.plays(script)
        return house, self.post(house)

    def assert_idle(self, house: House) -> None:
        """Nothing of a request is left over."""
        self.assertEqual(house.network.timers("Relay"), [])
        self.assertEqual(len(house.proxy._exchanges), 0)

    def test_headers_alone(self) -> None:
        """Nothing is added to the server's headers but our number, and what belongs to our own connection."""
        _, caller = self.exchange(json_body({"type": "message"}))
        ours = {"server", "date", "transfer-encoding", "x-claudeproxy-request-id", "request-id"}
        self.assertEqual({*caller.headers} - ours, {"content-type"})
        _, caller = self.exchange(Script(headers={"content-length": "2"}, steps=[Send(b"hi")]))
        self.assertEqual((caller.headers["content-length"], caller.body), ("2", b"hi"))

    def test_without_a_type(self) -> None:
        """What the server does not say of its answer, nobody here makes up."""
        _, caller = self.answered(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        self.assertEqual((caller.body, caller.headers.get("content-type")), (b"hi", None))

    def test_no_body(self) -> None:
        """Answers that have no body have none here either, and end."""
        for status, said in ((204, b""), (304, b"ETag: 1\r\n"), (200, b"Content-Length: 0\r\n")):
            house, caller = self.answered(b"HTTP/1.1 %d Fine\r\n" % status + said + b"\r\n")
            self.assertEqual((caller.status, caller.raw.partition(b"\r\n\r\n")[2]), (status, b""))
            self.assertNotIn("transfer-encoding", caller.headers)
            self.assertEqual(caller.headers.get("content-length"), "0" if status == 200 else None)
            self.assert_idle(house)

    def test_trailers(self) -> None:
        """A chunked body with trailers is whole without them."""
        said = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n"
        )
        _, caller = self.answered(said)
        self.assertEqual((caller.body, caller.ended), (b"hi", True))
        self.assertNotIn("trailer", caller.headers)

    def test_packed(self) -> None:
        """An answer that comes as gzip, though nobody asked for it, leaves unpacked, and says so."""
        events = b"".join(step_bytes(step) for step in anthropic.stream(anthropic.text("Hello")).steps)
        headers = {**anthropic.HEADERS, "content-encoding": "gzip"}
        _, caller = self.exchange(Script(headers=headers, steps=[Send(gzip.compress(events))]))
        self.assertEqual((caller.body, caller.ended), (events, True))
        self.assertNotIn("content-encoding", caller.headers)

    def test_badly_packed(self) -> None:
        """One that only says so is a failure of the server's."""
        headers = {**anthropic.HEADERS, "content-encoding": "gzip"}
        house, caller = self.exchange(Script(headers=headers, steps=[Send(b"no gzip at all")]))
        self.assertGreaterEqual(caller.status, 500)
        check_error(caller.json, caller.status)
        self.assert_idle(house)

    def test_unknown_packing(self) -> None:
        """What nobody here can unpack goes on as it is, and nothing is put between."""
        headers = {**anthropic.HEADERS, "content-encoding": "br"}
        house, caller = self.exchange(
            Script(headers=headers, steps=[Send(b"\x8b\n\n"), Wait(60), Send(b"\x03"), Cut()])
        )
        house.pass_time(61)
        self.assertEqual((caller.body, caller.ended), (b"\x8b\n\n\x03", False))
        self.assertEqual(caller.headers["content-encoding"], "br")

    def test_redirect(self) -> None:
        """A redirect stays here: the client would take its key and its conversation to somebody else (row 79)."""
        for status in (301, 302, 303, 307, 308):
            house, caller = self.exchange(Script(status=status, headers={"location": "http://elsewhere/"}))
            check_error(caller.json, 502)
            self.assertNotIn("location", caller.headers)
            self.assertEqual(len(house.fake.received), 1)
            self.assert_idle(house)

    def test_broken_before_the_body(self) -> None:
        """What breaks before its first byte is an HTTP error that clients repeat, with none of the server's headers."""
        for headers in (anthropic.HEADERS, {"content-type": "application/json", "retry-after": "9"}):
            house, caller = self.exchange(Script(headers=headers, steps=[Headers(), Wait(3), Cut()]))
            house.pass_time(4)
            self.assertIn("fake", check_error(caller.json, 529).message)
            self.assertEqual(caller.headers["content-type"], "application/json")
            self.assertNotIn("retry-after", caller.headers)
            self.assertNotIn("anthropic-organization-id", caller.headers)
            self.assertEqual(house.request_lines[-1]["outcome"], "backend_unavailable")
            self.assert_idle(house)

    def test_broken_json(self) -> None:
        """A text that breaks in the middle is cut, whether its length was known or not."""
        for headers in (
            {"content-type": "application/json"},
            {"content-type": "application/json", "content-length": "99"},
        ):
            house, caller = self.exchange(Script(headers=headers, steps=[Send(b'{"type":'), Cut()]))
            self.assertEqual((caller.body, caller.ended), (b'{"type":', False))
            self.assertIsNotNone(caller.lost)
            self.assertEqual(house.request_lines[-1]["outcome"], "backend_error")
            self.assert_idle(house)

    def test_broken_after_the_end(self) -> None:
        """What breaks after message_stop was whole."""
        script = anthropic.stream(anthropic.text("Hello"))
        house, caller = self.exchange(script.then(Wait(30), Cut()))
        house.pass_time(31)
        self.assertEqual((caller.body, caller.ended), (script.body_bytes(), True))  # nor is there any ping after it
        self.assertEqual(house.request_lines[-1]["outcome"], "end_turn")

    def test_ended_too_early(self) -> None:
        """A message that ends in its middle, however properly its body does, ends with an error event."""
        script = anthropic.stream(anthropic.text("Hello"))
        house, caller = self.exchange(evolve(script, steps=script.steps[:-1]))
        error = check_stream(caller.body).error
        assert error is not None
        self.assertEqual((error.type, caller.ended), ("api_error", True))
        self.assertIn("closed the connection in the middle of its answer", error.message)
        self.assert_idle(house)
        house, caller = self.exchange(evolve(script, steps=[*script.steps[:-1], Send(script.writes()[-1][:9])]))
        self.assertFalse(caller.ended)  # within an event there is no place for one
        self.assert_idle(house)

    def test_last_blank_line(self) -> None:
        """A message of which only the last blank line is missing is whole (row 70)."""
        script = anthropic.stream(anthropic.text("Hello"))
        shorn = script.writes()[-1].rstrip(b"\n")
        _, caller = self.exchange(evolve(script, steps=[*script.steps[:-1], Send(shorn)]))
        self.assertEqual((caller.body, caller.ended), (script.body_bytes().rstrip(b"\n"), True))

    def test_connection_is_the_length(self) -> None:
        """Where the end of the connection is the end of the body, a message without its last word was cut."""
        script = evolve(anthropic.stream(anthropic.text("Hello")), close_delimited=True)
        _, caller = self.exchange(script)
        self.assertEqual((caller.body, caller.ended), (script.body_bytes(), True))
        _, caller = self.exchange(evolve(script, steps=script.steps[:-2]))
        self.assertIsNotNone(check_stream(caller.body).error)
        _, caller = self.exchange(
            Script(headers={"content-type": "text/plain"}, steps=[Send(b"hi")], close_delimited=True)
        )
        self.assertEqual((caller.body, caller.ended), (b"hi", True))

    def test_pings_of_both(self) -> None:
        """The quiet is counted from the last byte, whoever wrote it; before the first event there are pings as well."""
        ping = b'event: ping\ndata: {"type": "ping"}\n\n'
        house, caller = self.exchange(
            Script(steps=[Headers(), Wait(25), Send(ping), Wait(9), Send(ping), Hang()], headers=anthropic.HEADERS)
        )
        house.pass_time(21)
        self.assertEqual(caller.body.count(b"event: ping"), 2)
        house.pass_time(22)  # theirs at 25 and 34
        self.assertEqual(caller.body.count(b"event: ping"), 4)
        house.pass_time(1.5)
        self.assertEqual(caller.body.count(b"event: ping"), 5)
        check_stream(caller.body, whole=False)

    def test_no_pings_into_other_things(self) -> None:
        """Nothing is put into a JSON text, nor into an error that calls itself a stream."""
        for status, kind in ((200, "application/json"), (500, "text/event-stream")):
            house, caller = self.exchange(
                Script(status=status, headers={"content-type": kind}, steps=[Send(b" \n\n"), Wait(60), Send(b"{}")])
            )
            house.pass_time(61)
            self.assertEqual((caller.body, caller.ended), (b" \n\n{}", True))

    def test_very_slow_server(self) -> None:
        """A byte a second is no reason to give up, and nothing is put between the bytes of an event."""
        script = anthropic.stream(anthropic.text("Hello"))
        whole = script.body_bytes()
        steps: list[Any] = [step for place in range(len(whole)) for step in (Send(whole[place : place + 1]), Wait(1))]
        house, caller = self.exchange(Script(headers=anthropic.HEADERS, steps=steps))
        house.pass_time(len(whole) + 1)
        self.assertEqual((caller.body, caller.ended), (whole, True))

    def test_gone_while_paused(self) -> None:
        """A client that leaves while it does not read hangs up on the server, too."""
        house = self.house()
        house.fake.plays(Script(steps=[Send(b"data: " + b"x" * 300_000)] * 9, headers=anthropic.HEADERS))
        caller = house.caller()
        caller.transport.pauseProducing()
        caller.ask("POST", "/v1/messages", ODD)
        self.assertTrue(self.backend_ends(house)[0].is_paused)
        caller.vanish()
        house.pass_time(1)
        self.assertEqual(self.backend_ends(house), [])
        self.assertEqual(house.request_lines[-1]["outcome"], "client_gone")
        self.assert_idle(house)

    def test_ended_while_paused(self) -> None:
        """What the server had said when it ended, or broke, arrives, however late the client reads it."""
        piece = Send(b"data: " + b"x" * 50_000 + b"\n\n")
        for ending in ((), (Cut(),)):
            house = self.house()
            script = Script(steps=[piece] * 3 + [*ending], headers=anthropic.HEADERS)
            house.fake.plays(script)
            caller = house.caller()
            caller.transport.pauseProducing()
            caller.ask("POST", "/v1/messages", ODD)
            house.pass_time(50)  # no longer: Twisted takes a connection for dead whose answer nobody fetches
            self.assertEqual(caller.raw, b"")
            caller.transport.resumeProducing()
            house.pass_time(1)
            self.assertTrue(caller.body.startswith(script.body_bytes()))
            self.assertEqual(caller.body.count(b"event: error"), len(ending))
            self.assertNotIn(b"event: ping", caller.body)  # they would have piled up
            self.assertTrue(caller.ended)

    def test_drain_before_the_headers(self) -> None:
        """A daemon that stops does not wait for a server that has not even begun."""
        house, caller = self.exchange(Script(steps=[Hang()]))
        stopped = house.proxy.stopService()
        house.pass_time(31)
        self.assertEqual(check_error(caller.json, 529).type, "overloaded_error")
        self.assertEqual(caller.headers["retry-after"], "2")
        self.successResultOf(stopped)

    def test_limits(self) -> None:
        """The limits of the settings hold here as well: for the first token, for silence after it, for all of it."""
        start, *_ = anthropic.stream(anthropic.text("Hello")).steps
        begun = anthropic.stream(anthropic.text("Hello")).steps[:4]
        for told, steps, after, kind in (
            ({"first_token_ms": 20_000}, [Hang()], 20, "overloaded_error"),
            ({"first_token_ms": 20_000}, [start, Hang()], 20, "overloaded_error"),
            ({"timeout_ms": 30_000}, [*begun, Hang()], 30, "api_error"),
            ({"total_ms": 40_000}, [*begun, Wait(25), begun[-1], Hang()], 40, "api_error"),
        ):
            house = self.house(told)
            house.fake.plays(Script(headers=anthropic.HEADERS, steps=steps))
            caller = self.post(house)
            house.pass_time(after - 1)
            self.assertFalse(caller.answered and caller.ended)
            house.pass_time(2)
            error = check_stream(caller.body).error if caller.status == 200 else check_error(caller.json, 529)
            self.assertEqual(error and error.type, kind)
            self.assertEqual(self.backend_ends(house), [])
            self.assert_idle(house)


class ElsewhereTests(PassThroughCase):
    """Paths that only Anthropic's own server has (PROTOCOL 1.1)."""

    def test_forwarded(self) -> None:
        """They go to the default backend: method, path, query, body and all."""
        house = self.house()
        form = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n"claudeproxy:\xff\r\n--x--\r\n'
        for method, path, body in (
            ("GET", "/v1/files?limit=3", b""),
            ("POST", "/v1/files", form),
            ("GET", "/v1/files/file_1/content", b""),
            ("DELETE", "/v1/files/file_1", b""),
            ("POST", "/v1/messages/batches", b'{"requests": [ ]}'),
            ("GET", "/v1/messages/batches/b/results", b""),
            ("GET", "/v1/skills", b""),
        ):
            answer = Script(headers={"content-type": "application/x-jsonl"}, steps=[Send(b"\xff{}\n")])
            house.fake.others[method, path.partition("?")[0]] = lambda _, answer=answer: answer
            house.fake.received.clear()
            kind = "multipart/form-data; boundary=x" if body is form else "application/json"
            caller = house.ask(method, path, body, {"content-type": kind})
            self.assertEqual((caller.status, caller.body), (200, b"\xff{}\n"), path)
            [received] = house.fake.received
            self.assertEqual((received.method, received.body), (method, body))
            self.assertEqual(received.path + ("?" + received.query) * bool(received.query), path)
            self.assertEqual(received.header("x-api-key"), BACKEND_KEY)

    def test_head(self) -> None:
        """HEAD tells the length of what GET would bring, and brings nothing."""
        house = self.house()
        answer = Script(headers={"content-type": "application/pdf", "content-length": "1234"})
        house.fake.others["HEAD", "/v1/files/file_1/content"] = lambda _: answer
        caller = house.ask("HEAD", "/v1/files/file_1/content")
        self.assertEqual((caller.status, caller.raw.partition(b"\r\n\r\n")[2]), (200, b""))
        self.assertEqual(caller.headers["content-length"], "1234")

    def test_key(self) -> None:
        """They are behind the gate, too."""
        house = self.house(keys=(Secret("gate-key"),))
        self.assertEqual(house.ask("GET", "/v1/files").status, 401)
        self.assertEqual(house.fake.received, [])

    def test_client_gone(self) -> None:
        """A client that leaves hangs up on the server here as well, before its headers and after."""
        for steps in ([Hang()], [Send(b"%PDF"), Hang()]):
            house = self.house()
            answer = Script(headers={"content-type": "application/pdf"}, steps=steps)
            house.fake.others["GET", "/v1/files/file_1/content"] = lambda _, answer=answer: answer
            caller = house.ask("GET", "/v1/files/file_1/content")
            self.assertEqual(len(self.backend_ends(house)), 1)
            caller.vanish()
            house.pass_time(1)
            self.assertEqual(self.backend_ends(house), [])
            self.assertEqual(house.request_lines[-1]["outcome"], "client_gone")
            self.assertEqual(len(house.proxy._exchanges), 0)

    def test_translated(self) -> None:
        """Other backends have nothing there, and known paths tell which method they take."""
        for house in (House(), self.house({"repair": True})):
            check_error(house.ask("GET", "/v1/files").json, 404)
            caller = house.ask("GET", "/v1/messages")
            self.assertEqual((caller.status, caller.headers["allow"]), (405, "POST"))


class Answers(Factory):
    """A server that says these bytes to whatever it is asked."""

    def __init__(self, said: bytes) -> None:
        self.said = said

    def buildProtocol(self, addr: object) -> Protocol:
        return Says(self.said)


class Says(Protocol):
    def __init__(self, said: bytes) -> None:
        self.said = said

    def dataReceived(self, data: bytes) -> None:
        said, self.said = self.said, b""
        self.transport.write(said)  # type: ignore[union-attr]


class CountTests(PassThroughCase):
    """Counts of a server that is passed through."""

    def test_source(self) -> None:
        """The server's own count is said to be exact; where it has no such route there is an estimate."""
        house = self.house()
        caller = house.ask("POST", "/v1/messages/count_tokens", ODD)
        self.assertEqual((caller.json["input_tokens"], caller.headers["x-claudeproxy-count-source"]), (42, "exact"))
        house.fake.count = None  # type: ignore[attr-defined]
        caller = house.ask("POST", "/v1/messages/count_tokens", ODD)
        self.assertEqual((caller.status, caller.headers["x-claudeproxy-count-source"]), (200, "estimate"))
        self.assertGreater(caller.json["input_tokens"], 5)
