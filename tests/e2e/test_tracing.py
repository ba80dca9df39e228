"""Traces of a real daemon, as a collector gets them by OTLP over HTTP."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.daemon import free_port, running, wait_until

BODY = {"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "prompt-canary"}]}


@contextmanager
def collector(hangs: Event | None = None) -> Iterator[tuple[str, list[bytes]]]:
    """Its address, and what it was sent."""
    received: list[bytes] = []

    class Collects(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["content-length"])))
            if hangs is not None:
                hangs.wait(60)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collects)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        if hangs is not None:
            hangs.set()
        server.shutdown()
        server.server_close()


def variables(address: str) -> dict[str, str]:
    backend = f"http://127.0.0.1:{free_port()}/v1"  # where nobody is: a failure is traced as well
    tracing = {"TRACING": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
    return {"PROVIDER": "openai", "PROVIDER_BASE_URL": backend, "PROVIDER_DIALECT": "generic", **tracing}


def test_collected(tmp_path: Path) -> None:
    """What was traced is sent at the latest when the daemon stops: two spans, of one trace, without content."""
    with collector() as (address, received), running(tmp_path / "daemon", variables=variables(address)) as daemon:
        assert daemon.asked("POST", "/v1/messages", BODY).status == 529
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 143
        assert b"canary" not in b"".join(received)
        message = ExportTraceServiceRequest.FromString(b"".join(received))
        (resource,) = message.resource_spans
        named = {each.key: each.value.string_value for each in resource.resource.attributes}
        assert named["service.name"] == "claudeproxy"
        spans = [span for scope in resource.scope_spans for span in scope.spans]
        assert {span.name for span in spans} == {"POST /v1/messages", "chat m"}
        assert len({span.trace_id for span in spans}) == 1
        assert daemon.log.count("Traceback") == 0


def test_collector_hangs(tmp_path: Path) -> None:
    """A collector that does not answer blocks nothing: requests are answered meanwhile, and the daemon ends."""
    hangs = Event()
    with collector(hangs) as (address, received):
        told = {**variables(address), "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with running(tmp_path / "daemon", variables=told) as daemon:
            for _ in range(20):
                assert daemon.asked("POST", "/v1/messages", BODY, timeout=10).status == 529
            wait_until("the first traces are on their way", 10, lambda: received)
            daemon.signal(signal.SIGTERM)
            assert daemon.ended() == 143
            assert "could not be sent" in daemon.log
