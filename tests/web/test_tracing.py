"""Traces: one span for a request, one for its call to the backend, in the words of the conventions, without content."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.settings import Settings
from claudeproxy.routing.sources import SettingsError
from claudeproxy.service import proxy as proxy_module
from claudeproxy.service import trace_parts
from claudeproxy.service.exporting import Exporting
from claudeproxy.web.tracing import Tracing
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.house import House, body
from tests.fakes.openai import Cut, Script, Wait, error, llama_text, silent, text
from tests.fakes.scripts import chunk

SESSION = {"x-claude-code-session-id": "0123456789abcdef"}
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "shop=1,other=2"}
ANTHROPIC: dict[str, Any] = {"provider": "anthropic", "base_url": "http://127.0.0.1:9000"}


class TracingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.patch(
            proxy_module,
            "exporting",
            lambda reactor, log: Exporting(Tracing(), reactor, log, lambda: SimpleSpanProcessor(self.exporter)),
        )
        self.house = House("llama.cpp", models={"claude-sonnet-4-5": "qwen"}, tracing=True)

    def spans(self) -> dict[str, ReadableSpan]:
        """All that ended since, by their names."""
        found = {span.name: span for span in self.exporter.get_finished_spans()}
        self.exporter.clear()
        return found

    def pair(self) -> tuple[ReadableSpan, ReadableSpan]:
        """The request's span and its call's."""
        found = list(self.spans().values())
        (server,) = (span for span in found if span.kind is SpanKind.SERVER)
        (client,) = (span for span in found if span.kind is SpanKind.CLIENT)
        self.assertEqual(len(found), 2)
        return server, client

    def attributes(self, span: ReadableSpan) -> dict[str, Any]:
        return dict(span.attributes or {})


class SpanTests(TracingCase):
    """The two spans of a request."""

    def test_both(self) -> None:
        """What they are called, what they say, when they were, and that they belong together."""
        steps = llama_text("a", prompt=40, cached=30).steps
        self.house.pass_time(10)
        self.house.fake.plays(Script(steps=[Wait(3), *steps[:4], Wait(1), *steps[3:]]))
        self.house.ask("POST", "/v1/messages", body(), {**SESSION, "user-agent": "claude-cli/2"})
        self.house.pass_time(5)
        server, client = self.pair()
        self.assertEqual((server.name, client.name), ("POST /v1/messages", "chat qwen"))
        self.assertEqual((server.start_time, server.end_time), (10 * 10**9, 14 * 10**9))
        self.assertEqual((client.start_time, client.end_time), (10 * 10**9, 14 * 10**9))
        assert client.parent is not None and server.context is not None
        self.assertEqual(client.parent.span_id, server.context.span_id)
        self.assertIsNone(server.parent)
        told = self.attributes(server)
        for name, value in {
            "http.request.method": "POST",
            "http.route": "/v1/messages",
            "http.response.status_code": 200,
            "url.path": "/v1/messages",
            "url.scheme": "http",
            "user_agent.original": "claude-cli/2",
            "server.address": "127.0.0.1",
            "server.port": 8080,
            "gen_ai.request.model": "claude-sonnet-4-5",
            "gen_ai.conversation.id": "0123456789abcdef",
            "claudeproxy.outcome": "end_turn",
        }.items():
            self.assertEqual(told[name], value, name)
        told = self.attributes(client)
        for name, value in {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "llama.cpp",
            "gen_ai.request.model": "qwen",
            "gen_ai.request.max_tokens": 64,
            "gen_ai.response.model": "qwen",
            "gen_ai.response.finish_reasons": ("end_turn",),
            "gen_ai.usage.input_tokens": 40,
            "gen_ai.usage.cache_read.input_tokens": 30,
            "gen_ai.response.time_to_first_chunk": 3.0,
            "server.address": "127.0.0.1",
            "server.port": 9000,
            "http.response.status_code": 200,
        }.items():
            self.assertEqual(told[name], value, name)
        self.assertTrue(told["gen_ai.usage.output_tokens"])
        for span in (server, client):
            self.assertNotIn("error.type", self.attributes(span))
            self.assertIs(span.status.status_code, StatusCode.UNSET)

    def test_no_content(self) -> None:
        """No word of the conversation, no key."""
        self.house.fake.plays(text("reply-canary"))
        asked = body(system="system-canary", messages=[{"role": "user", "content": "prompt-canary"}])
        self.house.ask("POST", "/v1/messages", asked, {"x-api-key": "key-canary"})
        for span in self.pair():
            self.assertNotIn("canary", span.to_json())

    def test_failures(self) -> None:
        """A failure of the backend, at once or in the middle, is one of both spans; a bad request is its client's."""
        for script, outcome, status in (
            (error(500, {"error": "no"}), "backend_error", 500),
            (Script(steps=[chunk({"content": "a"}), Cut()]), "backend_error", 200),
        ):
            self.house.fake.plays(script)
            self.house.ask("POST", "/v1/messages", body())
            server, client = self.pair()
            for span in (server, client):
                self.assertEqual(self.attributes(span)["error.type"], outcome)
                self.assertIs(span.status.status_code, StatusCode.ERROR)
            self.assertEqual(self.attributes(server)["http.response.status_code"], status)
        self.house.ask("POST", "/v1/messages", body(max_tokens="5"))
        (server,) = self.spans().values()
        self.assertEqual(self.attributes(server)["error.type"], "invalid_request")
        self.assertIs(server.status.status_code, StatusCode.UNSET)

    def test_sent_again(self) -> None:
        """A repetition is an event of the one call."""
        self.house.fake.plays(Script(steps=[Cut()]))
        self.house.fake.plays(text("b"))
        self.house.ask("POST", "/v1/messages", body())
        _, client = self.pair()
        self.assertEqual([event.name for event in client.events], ["resend"])
        self.assertEqual(self.attributes(client)["http.request.resend_count"], 1)

    def test_vanished(self) -> None:
        """A client that goes away ends both."""
        for script in (silent(headers=False), silent(), Script(steps=[chunk({"content": "a"}), *silent().steps])):
            self.house.fake.plays(script)
            caller = self.house.ask("POST", "/v1/messages", body())
            self.house.pass_time(3)
            self.assertEqual(self.spans(), {})
            caller.vanish()
            server, client = self.pair()
            self.assertEqual(self.attributes(server)["claudeproxy.outcome"], "client_gone")
            self.assertEqual(self.attributes(client)["claudeproxy.outcome"], "client_gone")

    def test_joined(self) -> None:
        """A call that another request joined ends once, with the tokens; each request has its own span."""
        self.house.reset(interrupt_ms=1000, grace_ms=0)
        self.house.fake.plays(Script(steps=[Wait(5), *llama_text("a", prompt=40, cached=30).steps]))
        first = self.house.ask("POST", "/v1/messages", body(), SESSION)
        self.house.pass_time(2)
        first.vanish()
        (server,) = self.spans().values()
        self.assertEqual(self.attributes(server)["claudeproxy.outcome"], "client_gone")
        self.house.ask("POST", "/v1/messages", body(), SESSION)
        self.house.pass_time(5)
        server, client = self.pair()
        self.assertIn("claudeproxy.joined", self.attributes(server))
        self.assertEqual(self.attributes(client)["gen_ai.usage.input_tokens"], 40)

    def test_lost(self) -> None:
        """One that nobody joins ends when the backend is hung up on."""
        self.house.reset(interrupt_ms=1000, linger_ms=4000, grace_ms=0)
        self.house.fake.plays(silent())
        caller = self.house.ask("POST", "/v1/messages", body(), SESSION)
        self.house.pass_time(2)
        caller.vanish()
        self.assertEqual(list(self.spans()), ["POST /v1/messages"])
        self.house.pass_time(5)
        (client,) = self.spans().values()
        self.assertEqual((client.kind, client.end_time), (SpanKind.CLIENT, 6 * 10**9))

    def test_few_names(self) -> None:
        """Whatever paths clients ask for, the names of spans are few; monitors leave none."""
        for path in ("/v1/models/x", "/v1/models/y", "/nowhere/1", "/nowhere/2", "/health", "/", "/admin/requests"):
            self.house.ask("GET", path)
        self.assertEqual(set(self.spans()), {"GET /v1/models/{id}", "GET"})
        self.house.ask("MKACTIVITY", "/v1/messages")
        self.house.ask("MKCOL", "/v1/messages/batches")
        spans = self.spans()
        self.assertEqual(set(spans), {"HTTP /v1/messages", "HTTP /v1/{id}"})
        told = self.attributes(spans["HTTP /v1/messages"])
        self.assertEqual((told["http.request.method"], told["http.request.method_original"]), ("_OTHER", "MKACTIVITY"))


class PropagationTests(TracingCase):
    """The caller's trace goes on in the backend's."""

    def header(self, name: str) -> str | None:
        return self.house.fake.chats[-1].header(name)

    def test_taken_up(self) -> None:
        """The request's span is a child of the caller's, the backend's would be one of the call's; so is the state."""
        self.house.fake.plays(text("a"))
        self.house.ask("POST", "/v1/messages", body(), PARENT)
        server, client = self.pair()
        assert server.parent is not None and client.context is not None
        self.assertEqual((f"{server.parent.trace_id:032x}", f"{server.parent.span_id:016x}"), (TRACE, CALLER))
        self.assertEqual(self.header("traceparent"), f"00-{TRACE}-{client.context.span_id:016x}-01")
        self.assertEqual(self.header("tracestate"), PARENT["tracestate"])

    def test_not_sampled(self) -> None:
        """A caller that does not want to be traced is not, and the backend is told so."""
        self.house.fake.plays(text("a"))
        self.house.ask("POST", "/v1/messages", body(), {"traceparent": f"00-{TRACE}-{CALLER}-00"})
        self.assertEqual(self.spans(), {})
        self.assertRegex(str(self.header("traceparent")), f"^00-{TRACE}-[0-9a-f]{{16}}-00$")

    def test_nonsense(self) -> None:
        """A broken header begins a new trace."""
        for parent in ("", "00", f"00-{TRACE}-{CALLER}", "00-" + "0" * 32 + f"-{CALLER}-01", "\xff" * 40):
            self.house.fake.plays(text("a"))
            self.house.ask(
                "POST", "/v1/messages", body(), {"traceparent": parent.encode("latin-1"), "tracestate": "x=1"}
            )
            server, _ = self.pair()
            self.assertIsNone(server.parent, parent)
            self.assertIsNone(self.header("tracestate"))

    def test_passed_through(self) -> None:
        """So it is where requests are passed through: the headers are replaced, not doubled."""
        self.house = House(backend=ANTHROPIC, make_fake=FakeAnthropic, tracing=True)
        self.house.ask("POST", "/v1/messages", body(), PARENT)
        _, client = self.pair()
        self.assertEqual(client.name, "chat claude-sonnet-4-5")
        told = self.attributes(client)
        self.assertEqual(told["gen_ai.provider.name"], "anthropic")
        self.assertTrue(told["gen_ai.request.stream"])
        self.assertGreater(told["gen_ai.usage.output_tokens"], 0)
        (received,) = (each for each in self.house.fake.received if each.path == "/v1/messages")
        assert client.context is not None
        self.assertEqual(
            received.headers.getRawHeaders("traceparent"), [f"00-{TRACE}-{client.context.span_id:016x}-01"]
        )
        self.assertEqual(received.headers.getRawHeaders("tracestate"), [PARENT["tracestate"]])

    def test_counted(self) -> None:
        """A count that is passed through is a call, but no chat."""
        self.house = House(backend=ANTHROPIC, make_fake=FakeAnthropic, tracing=True)
        self.house.ask("POST", "/v1/messages/count_tokens", body(max_tokens=None, stream=None))
        server, client = self.pair()
        self.assertEqual((server.name, client.name), ("POST /v1/messages/count_tokens", "POST"))
        self.assertEqual([self.attributes(each)["claudeproxy.outcome"] for each in (server, client)], ["ok", "ok"])
        self.assertNotIn("gen_ai.operation.name", self.attributes(client))

    def test_off(self) -> None:
        """Without tracing the headers go on as they came where requests are passed through, and else not at all."""
        passing, translating = House(backend=ANTHROPIC, make_fake=FakeAnthropic), House()
        translating.fake.plays(text("a"))
        for house in (passing, translating):
            house.ask("POST", "/v1/messages", body(), PARENT)
        (received,) = (each for each in passing.fake.received if each.path == "/v1/messages")
        self.assertEqual(received.header("traceparent"), PARENT["traceparent"])
        self.assertIsNone(translating.fake.chats[-1].header("traceparent"))
        self.assertEqual(self.spans(), {})


class AbsenceTests(SynchronousTestCase):
    """When it is off."""

    def test_nothing_loaded(self) -> None:
        """Nothing of OpenTelemetry is in a daemon that does not trace; it would be, were it on."""
        program = (
            "import sys\n"
            "from claudeproxy.routing.settings import BackendSettings, Settings\n"
            "from claudeproxy.service import tree\n"
            "from claudeproxy.service.proxy import Proxy\n"
            "from twisted.internet.testing import MemoryReactorClock\n"
            "backend = BackendSettings('b', 'openai', base_url='http://127.0.0.1:1/v1')\n"
            "on = sys.argv[1] == 'on'\n"
            "Proxy(Settings(backends=[backend], tracing=on), MemoryReactorClock())\n"
            "print(any(name.startswith('opentelemetry') for name in sys.modules))\n"
        )
        for state, loaded in (("off", "False"), ("on", "True")):
            done = subprocess.run(
                [sys.executable, "-c", program, state],
                cwd=Path(__file__).parents[2],
                capture_output=True,
                text=True,
                timeout=60,
            )
            self.assertEqual((done.stdout.strip(), done.returncode), (loaded, 0), done.stderr)

    def test_not_installed(self) -> None:
        """Without the extra it says which one is missing."""
        self.patch(trace_parts, "find_spec", lambda name: None)
        fault = self.assertRaises(SettingsError, trace_parts.check_tracing, Settings(tracing=True))
        self.assertIn("claudeproxy[otel]", str(fault))
        trace_parts.check_tracing(Settings())
