"""What is counted, and how Prometheus is told (issue 6, "Metrics")."""

import re
from typing import Any

from attrs import evolve
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from claudeproxy.model.events import Usage
from claudeproxy.routing.expectations import Secret
from claudeproxy.routing.sources import SettingsError
from claudeproxy.web.exchange import Exchange
from claudeproxy.web.exposition import METRICS, PIECE, Exposition
from claudeproxy.web.metrics import MOST_HISTOGRAMS, MOST_NAMES, MOST_SETS, OTHER, Names, Spreads, Totals, kind_of
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.anthropic import refused as anthropic_refused
from tests.fakes.anthropic import stream as anthropic_stream
from tests.fakes.anthropic import text as block
from tests.fakes.anthropic import whole as anthropic_whole
from tests.fakes.callers import Caller, caller
from tests.fakes.house import BACKEND_PORT, House, body
from tests.fakes.openai import Cut, Script, Send, Wait, error, llama_text, silent, text
from tests.fakes.scripts import chunk

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
SESSION = {"x-claude-code-session-id": "session-1"}


def scraped(house: House, **headers: str) -> Caller:
    """The answer to a question for the metrics."""
    answer = house.ask("GET", "/metrics", None, headers)
    house.pass_time(0.01)
    return answer


class MetricsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.house = House(models={"claude-sonnet-4-5": "qwen"})

    def samples(self) -> list[Any]:
        answer = scraped(self.house)
        self.assertEqual(answer.status, 200)
        return [sample for family in read_text(answer.body.decode()) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        return sum(
            sample.value
            for sample in self.samples()
            if sample.name == f"claudeproxy_{name}" and labels.items() <= sample.labels.items()
        )

    def chat(self, script: Script | None, **fields: Any) -> Caller:
        if script is not None:
            self.house.fake.plays(script)
        return self.house.ask("POST", "/v1/messages", body(**fields), SESSION)


class RequestTests(MetricsCase):
    """Requests."""

    def test_labels(self) -> None:
        """Route, the backend's own name of the model, backend, status and outcome."""
        self.chat(text("a"))
        self.assertEqual(
            self.value(
                "requests_total", route="/v1/messages", model="qwen", backend="fake", status="200", outcome="end_turn"
            ),
            1,
        )

    def test_outcomes(self) -> None:
        """Every way in which a request can end is one."""
        for script, fields, status, outcome in (
            (text("a", finish="length"), {}, "200", "max_tokens"),
            (error(429, {"error": {"message": "no"}}), {}, "429", "backend_refused"),
            (Script(steps=[chunk({"content": "a"}), Cut()]), {}, "200", "backend_error"),
            (None, {"max_tokens": "5"}, "400", "invalid_request"),
        ):
            self.chat(script, **fields)
            self.assertEqual(self.value("requests_total", status=status, outcome=outcome), 1, outcome)
        self.chat(silent()).vanish()
        self.assertEqual(self.value("requests_total", status="499", outcome="client_gone"), 1)
        self.house.ask("GET", "/health", None, {"host": "evil.example"})
        self.assertEqual(self.value("requests_total", route="/health", outcome="forbidden", status="403"), 1)

    def test_routes(self) -> None:
        """Paths are counted by their rules; what no rule fits is unmatched."""
        for path, route in (
            ("/v1/models", "/v1/models"),
            ("/v1/models/", "/v1/models"),
            ("/v1/models/a/b", "/v1/models/{id}"),
            ("/team/v1/models/c", "/v1/models/{id}"),
            ("/v1/files/x", "/v1/{id}"),
            ("/health", "/health"),
            ("/", "/"),
            ("/nothing/of/ours", "unmatched"),
            ("/admin/requests/last", "/admin"),
            ("/%ff%00", "unmatched"),
        ):
            before = self.value("requests_total", route=route)
            self.house.ask("GET", path)
            self.assertEqual(self.value("requests_total", route=route), before + 1, path)
        self.house.ask("DELETE", "/v1/messages")
        self.assertEqual(self.value("requests_total", route="/v1/messages", status="405"), 1)

    def test_in_flight(self) -> None:
        """Those that run, and of them the streams, by backend; 0 where there are none."""
        self.assertEqual(
            [self.value(f"{name}", backend="fake") for name in ("requests_in_flight", "streams_open")], [0, 0]
        )
        stream = self.chat(silent())
        whole = self.chat(silent(), stream=False)
        self.assertEqual(self.value("requests_in_flight", backend="fake"), 2)
        self.assertEqual(self.value("requests_in_flight", backend=""), 1, "the question itself")
        self.assertEqual(self.value("streams_open"), 1)
        stream.vanish()
        whole.vanish()
        self.assertEqual(self.value("requests_in_flight", backend="fake"), 0)

    def test_times(self) -> None:
        """Durations, first tokens, and the mean time between two tokens."""
        self.house = House("llama.cpp", models={"claude-sonnet-4-5": "qwen"})
        steps = llama_text("a", "b", prompt=40, cached=30).steps
        self.chat(Script(steps=[Wait(3), *steps[:4], Wait(4), *steps[4:]]))
        self.house.pass_time(8)
        for name, seconds in (("request_duration", 7), ("first_token", 3)):
            self.assertEqual(self.value(f"{name}_seconds_sum", model="qwen", backend="fake"), seconds)
            self.assertEqual(self.value(f"{name}_seconds_count", model="qwen"), 1)
            self.assertEqual(self.value(f"{name}_seconds_bucket", model="qwen", le="2.5"), 0)
            self.assertEqual(self.value(f"{name}_seconds_bucket", model="qwen", le="10.0"), 1)
        self.assertEqual(self.value("tokens_total", kind="output"), 2)
        self.assertEqual(self.value("inter_token_seconds_count"), 1)
        self.assertEqual(self.value("inter_token_seconds_sum"), 4)

    def test_no_pace(self) -> None:
        """An answer that came all at once, or of one token, has no time between tokens."""
        self.chat(text("a", "b"))
        self.assertEqual(self.value("inter_token_seconds_count"), 0)

    def test_tokens(self) -> None:
        """Each token is of one kind only."""
        self.house = House("llama.cpp", models={"claude-sonnet-4-5": "qwen"})
        self.chat(llama_text("a", prompt=40, cached=30))
        self.assertEqual(self.value("tokens_total", kind="input", model="qwen", backend="fake"), 10)
        self.assertEqual(self.value("tokens_total", kind="cached"), 30)
        self.assertTrue(self.value("tokens_total", kind="output"))

    def test_losses(self) -> None:
        """What was not sent or done in the backend's stead, and what was repaired, by its kind."""
        self.chat(
            Script(steps=[Send(b"data: nonsense\n\n"), Send(b"data: nonsense\n\n"), *text("a").steps]),
            top_k=5,
            stop_sequences=["x"],
        )
        self.assertEqual(self.value("fields_dropped_total", field="top_k", backend="fake"), 1)
        self.assertEqual(self.value("fields_emulated_total", backend="fake"), len(self.emulated()))
        self.assertEqual(self.value("repairs_total", kind="data that are no JSON were passed over"), 1)

    def emulated(self) -> set[str]:
        return {str(each["names"]) for each in self.house.events if each.get("words") == "done in the stead of"}

    def test_kinds(self) -> None:
        """The particulars of a remark or a loss are no part of its kind."""
        for told, kind in (
            ("a tool call was left as text: no such tool: x", "a tool call was left as text"),
            ("thinking (not together with a tool_choice)", "thinking"),
            ("top_k", "top_k"),
        ):
            self.assertEqual(kind_of(told), kind)

    def test_cache(self) -> None:
        """What became of the prompt cache."""
        self.house = House("llama.cpp")
        self.chat(llama_text("a", prompt=40, cached=0))
        self.chat(llama_text("a", prompt=40, cached=0), system="another")
        self.assertEqual(sum(s.value for s in self.samples() if s.name == "claudeproxy_cache_verdicts_total"), 2)

    def test_joined(self) -> None:
        """A retry that joins is counted, and so is what the client says of it; what waits for it is told."""
        self.house = House(interrupt_ms=0)
        first = self.chat(silent())
        self.house.pass_time(3)
        first.vanish()
        self.assertEqual(self.value("answers_waiting"), 1)
        self.house.ask("POST", "/v1/messages", body(), {**SESSION, "x-stainless-retry-count": "1"}).vanish()
        self.house.ask("POST", "/v1/messages", body(), {**SESSION, "x-stainless-retry-count": "no"}).vanish()
        self.assertEqual((self.value("joined_answers_total"), self.value("client_retries_total")), (2, 1))

    def test_joined_pace(self) -> None:
        """Who joins gets at once what it missed: that is no pace of the model's."""
        self.house = House(interrupt_ms=0, grace_ms=0)
        first = self.chat(text("a", "b", "c").paced(2))
        first.vanish()
        self.house.pass_time(5)
        self.house.ask("POST", "/v1/messages", body(), SESSION)
        self.house.pass_time(20)
        self.assertEqual((self.value("joined_answers_total"), self.value("tokens_total", kind="output")), (1, 3))
        self.assertEqual(self.value("inter_token_seconds_count"), 0)

    def test_counts(self) -> None:
        """Counts of tokens, by their source."""
        asked = body(stream=None, max_tokens=None)
        self.assertEqual(self.house.ask("POST", "/v1/messages/count_tokens", asked).status, 200)
        self.assertEqual(self.value("counts_total", source="estimate"), 1)

    def test_passed_through(self) -> None:
        """Answers that are passed through are counted with their tokens."""
        told = {"provider": "anthropic"}
        self.house = House("auto", told, make_fake=FakeAnthropic)
        self.chat(anthropic_stream(block("a", "b", "c")).paced(2))
        self.assertEqual(self.value("streams_open", backend="fake"), 1)
        self.house.pass_time(20)
        self.assertEqual(self.value("requests_total", backend="fake", status="200", outcome="end_turn"), 1)
        self.assertTrue(self.value("tokens_total", kind="input", backend="fake"))
        self.assertTrue(self.value("tokens_total", kind="output", backend="fake"))
        self.assertEqual(self.value("first_token_seconds_count", backend="fake"), 1)
        self.assertEqual(self.value("inter_token_seconds_count", backend="fake"), 1)
        self.chat(anthropic_whole(block("a", "b")).paced(2), stream=False)
        self.house.pass_time(4)
        self.assertEqual(self.value("inter_token_seconds_count", backend="fake"), 1, "an answer in one piece has none")
        self.assertEqual(self.value("first_token_seconds_count", backend="fake"), 2)

    def test_no_first_token(self) -> None:
        """A count or a refusal that is passed through has no tokens, and thus no first one."""
        self.house = House("auto", {"provider": "anthropic"}, make_fake=FakeAnthropic)
        self.house.fake.plays(anthropic_refused(400, "invalid_request_error", "no"))
        self.assertEqual(self.chat(None).status, 400)
        self.assertEqual(self.house.ask("POST", "/v1/messages/count_tokens", body()).json, {"input_tokens": 42})
        self.assertEqual(self.value("requests_total", backend="fake"), 2)
        self.assertEqual(self.value("first_token_seconds_count", backend="fake"), 0)

    def test_keys(self) -> None:
        """Requests and tokens by the name of the key, where it has one."""
        metrics = self.house.proxy._metrics
        exchange = Exchange("req_1", "POST", "/v1/messages", "local", "", "", "", "/v1/messages", 0.0, key="anna")
        exchange.usage = Usage(input=3, output=2)
        metrics.left(exchange)
        self.assertEqual(self.value("key_requests_total", key="anna"), 1)
        self.assertEqual(self.value("key_tokens_total", key="anna", kind="output"), 2)


class DaemonTests(MetricsCase):
    """Backends, reloads, and what runs."""

    def test_backends(self) -> None:
        """Whether a backend is there, and whether it was ever heard of."""
        self.house = House("auto")

        def told() -> list[float]:
            return [self.value(f"backend_{name}", backend="fake") for name in ("up", "known")]

        self.assertEqual(told(), [1, 1])
        self.house.network.listeners.pop(BACKEND_PORT)
        self.house.pass_time(5)  # until the kept connection is gone
        self.chat(None)
        self.house.pass_time(1)
        self.assertEqual(told(), [0, 1])
        self.house = House("auto", others={("GET", "/v1/models"): lambda _: silent()})
        self.assertEqual(told(), [0, 0])

    def test_reloads(self) -> None:
        """Good ones and refused ones."""
        self.house.reset(ping_ms=5000)
        self.assertRaises(SettingsError, self.house.proxy.reload, evolve(self.house.settings, models={"a": "fake/"}))
        self.house.proxy.reload_refused()
        self.assertEqual(self.value("reloads_total", result="ok"), 1)
        self.assertEqual(self.value("reloads_total", result="refused"), 2)

    def test_process(self) -> None:
        """Versions, and the process's own figures under the names that all have."""
        (build,) = (s for s in self.samples() if s.name == "claudeproxy_build_info")
        self.assertEqual(set(build.labels), {"version", "python", "twisted"})
        self.assertIn("process_resident_memory_bytes", {s.name for s in self.samples()})

    def test_resent(self) -> None:
        """Requests that were sent again, because the connection had been closed meanwhile."""
        self.assertEqual(self.value("backend_resends_total", backend="fake"), 0)
        self.house.fake.answers = lambda asked: Script(steps=[Cut()])
        self.chat(None)
        self.assertEqual(self.value("backend_resends_total", backend="fake"), 1)

    def test_two_proxies(self) -> None:
        """Two proxies in one process count each for itself."""
        self.chat(text("a"))
        other = House(models={"claude-sonnet-4-5": "qwen"})
        self.assertEqual(self.value("requests_total", model="qwen"), 1)
        self.house = other
        self.assertEqual(self.value("requests_total", model="qwen"), 0)


class BoundTests(MetricsCase):
    """No client can make more series than there may be."""

    def test_models(self) -> None:
        """After so many models the others are one."""
        self.house = House()
        for number in range(MOST_NAMES + 5):
            self.house.fake.plays(text("a"))
            self.chat(None, model=f"model-{number}")
        models = {s.labels["model"] for s in self.samples() if s.name == "claudeproxy_requests_total"}
        self.assertLessEqual(len(models), MOST_NAMES + 1)
        self.assertIn(OTHER, models)
        self.assertEqual(self.value("requests_total", route="/v1/messages"), MOST_NAMES + 5)

    def test_each(self) -> None:
        """Names, sets of labels and histograms each have their most."""
        names, totals, spreads = Names(), Totals(), Spreads((1,))
        for number in range(2000):
            names.of(str(number))
            totals.add((str(number), "x"))
            spreads.add((str(number),), 0.5)
        self.assertEqual((names.of("0"), names.of("1999")), ("0", OTHER))
        self.assertEqual(len(totals.by_labels), MOST_SETS + 1)
        self.assertEqual(totals.by_labels[OTHER, OTHER], 2000 - MOST_SETS)
        self.assertEqual(sum(totals.by_labels.values()), 2000)
        self.assertEqual(len(spreads.by_labels), MOST_HISTOGRAMS + 1)
        self.assertEqual(spreads.by_labels[OTHER,].counts, [2000 - MOST_HISTOGRAMS, 0])

    def test_clock_set_back(self) -> None:
        """A time below nothing is no time."""
        spreads = Spreads((1,))
        spreads.add(("a",), -0.1)
        self.assertEqual(spreads.by_labels, {})


class PageTests(MetricsCase):
    """Where it is told, and in which format."""

    def test_formats(self) -> None:
        """Prometheus's text, and OpenMetrics for who asks for it; both can be read, and say the same."""
        self.chat(text("a"))
        plain, open_ = scraped(self.house), scraped(self.house, accept=OPENMETRICS)
        self.assertTrue(plain.headers["content-type"].startswith("text/plain; version=0.0.4"))
        self.assertTrue(open_.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0"))
        self.assertTrue(open_.body.endswith(b"# EOF\n"))
        self.assertEqual(open_.body.count(b"# EOF\n"), 1)
        first = {f.name for f in read_text(plain.body.decode())}
        second = {f.name for f in read_openmetrics(open_.body.decode())}
        self.assertEqual(
            {name.removesuffix("_info") for name in first}, {name.removesuffix("_info") for name in second}
        )

    def test_odd_formats(self) -> None:
        """Who asks for what nobody can make of it gets the plain one."""
        for version in ("foo", "1.x", "", "1.0.0.0", "\xb2"):
            answer = scraped(self.house, accept=f"application/openmetrics-text;version={version}")
            self.assertEqual(answer.status, 200, version)
            self.assertTrue(answer.headers["content-type"].startswith(("text/plain", "application/openmetrics")))

    def test_names(self) -> None:
        """Names are as Prometheus wants them, each with its kind and a sentence."""
        answer = scraped(self.house).body.decode()
        for name, kind, _, words in METRICS:
            self.assertIn(f"# HELP claudeproxy_{name} {words}\n", answer)
            self.assertIn(f"# TYPE claudeproxy_{name} {kind}\n", answer)
            self.assertEqual(name.endswith("_total"), kind == "counter", name)
            self.assertTrue(kind != "histogram" or name.endswith("_seconds"), name)
            self.assertRegex(words, r"^[A-Z1].*\.$")

    def test_large(self) -> None:
        """A large answer is made in pieces, between which others have their turn; no line is lost or there twice."""
        metrics = self.house.proxy._metrics
        for number in range(MOST_HISTOGRAMS):
            metrics.durations.add((f"r{number}", "m", "b"), 1.0)
        answer = self.house.caller()
        answer.ask("GET", "/metrics", pump=False)
        for _ in range(4):
            self.house.network._step()
        self.assertFalse(answer.answered)
        self.house.ask("GET", "/health")
        self.house.pass_time(0.01)
        for accept, read in (("*/*", read_text), (OPENMETRICS, read_openmetrics)):
            families = {f.name: f for f in read(scraped(self.house, accept=accept).body.decode())}
            found = families["claudeproxy_request_duration_seconds"].samples
            self.assertGreater(len(found), 10 * PIECE)
            self.assertEqual(len({(s.name, tuple(s.labels.items())) for s in found}), len(found))
            counts = [s for s in found if s.name.endswith("_count") and s.labels["model"] == "m"]
            self.assertEqual(sorted(s.labels["route"] for s in counts), sorted(f"r{n}" for n in range(MOST_HISTOGRAMS)))

    def test_gone(self) -> None:
        """Who leaves in the middle of it leaves nothing behind."""
        metrics = self.house.proxy._metrics
        for number in range(MOST_HISTOGRAMS):
            metrics.durations.add((f"r{number}", "m", "b"), 1.0)
        answer = self.house.caller()
        answer.ask("GET", "/metrics", pump=False)
        for _ in range(4):
            self.house.network._step()
        answer.vanish()
        self.house.pass_time(1)
        self.assertFalse([event for event in self.house.events if "log_failure" in event])
        self.assertEqual(self.value("requests_total", route="/metrics", status="499"), 1)

    def test_fault(self) -> None:
        """A fault of ours is a 500, at either place, and the log has it."""
        self.patch(Exposition, "_figures", lambda self: {}["index"])
        self.assertEqual(scraped(self.house).status, 500)
        self.house.network.listenTCP(9100, Site(self.house.proxy.metrics(), reactor=self.house.network))
        self.assertEqual(caller(self.house.network, 9100).ask("GET", "/").status, 500)
        self.assertEqual(len([event for event in self.house.events if "log_failure" in event]), 2)

    def test_key(self) -> None:
        """It is behind the keys, like any other route."""
        self.house = House(keys=(Secret("sk-canary"),))
        self.assertEqual(scraped(self.house).status, 401)
        self.assertEqual(scraped(self.house, authorization="Bearer sk-canary").status, 200)
        self.assertNotIn(b"canary", scraped(self.house, authorization="Bearer sk-canary").body)

    def test_off(self) -> None:
        """Off the public listener by setting; a reload changes it, and what was counted stays counted."""
        admin = "tcp:9090:interface=127.0.0.1"
        self.house = House(metrics="off", models={"claude-sonnet-4-5": "qwen"}, admin_listen=(admin,))
        self.chat(text("a"))
        self.assertEqual((scraped(self.house).status, self.for_operators()), (404, 404))
        self.house.reset(metrics="admin")
        self.assertEqual((scraped(self.house).status, self.for_operators()), (404, 200))
        self.house.reset(metrics="public")
        self.assertEqual(self.for_operators(), 200)
        self.assertEqual(self.value("requests_total", model="qwen"), 1)

    def for_operators(self) -> int | None:
        return caller(self.house.network, 9090).ask("GET", "/metrics").status

    def test_admin_needs_its_listener(self) -> None:
        """Where nobody could ask for it, the setting is refused."""
        error = self.assertRaises(SettingsError, House, metrics="admin")
        self.assertIn("ADMIN_LISTEN", str(error))

    def test_as_resource(self) -> None:
        """As a resource of its own it can hang anywhere, whatever the setting says."""
        self.house = House(metrics="off", models={"claude-sonnet-4-5": "qwen"})
        self.chat(text("a"))
        root = Resource()
        root.putChild(b"numbers", self.house.proxy.metrics())
        self.house.network.listenTCP(9100, Site(root, reactor=self.house.network))
        answer = caller(self.house.network, 9100).ask("GET", "/numbers", None, {"accept": OPENMETRICS})
        self.house.pass_time(0.01)
        self.assertEqual(answer.status, 200)
        self.assertTrue(answer.ended)
        self.assertTrue(re.search(rb'claudeproxy_requests_total\{.*model="qwen".*\} 1.0\n', answer.body))
        self.assertEqual(caller(self.house.network, 9100).ask("HEAD", "/numbers").status, 200)
