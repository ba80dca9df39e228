"""What is no HTTP, or asks for no path: it gets the envelope too (issue 2, item 3)."""

from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.expectations import Secret
from tests.fakes.house import House
from tests.stream_checker import check_error


class NoHTTPTests(SynchronousTestCase):
    """Below every route."""

    def test_broken(self) -> None:
        """A request that cannot be read is a 400 with a request-id, and the connection ends."""
        house = House()
        for data in (
            b"hello\r\n\r\n",
            b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        ):
            caller = house.caller().send(data)
            self.assertEqual(check_error(caller.json, 400).type, "invalid_request_error", data[:40])
            self.assertTrue(caller.headers["request-id"].startswith("req_"))

    def test_one_host(self) -> None:
        """Two hosts, or none in HTTP/1.1, are a 400: another server might take another one for the right one."""
        house = House()
        good, bad = b"host: localhost\r\n", b"host: evil.example\r\n"
        for version, hosts, status in (
            (b"1.1", good, 200),
            (b"1.0", good, 200),
            (b"1.0", b"", 200),
            (b"1.1", b"", 400),
            (b"1.1", bad + good, 400),
            (b"1.1", good + good, 400),
            (b"1.0", bad + good, 400),
        ):
            caller = house.caller().send(b"GET /health HTTP/" + version + b"\r\n" + hosts + b"\r\n")
            self.assertEqual(caller.status, status, (version, hosts))
            if status == 400:
                self.assertIn("Host", check_error(caller.json, 400).message)

    def test_server(self) -> None:
        """No answer says which version of what serves here."""
        house = House()
        for path in ("/health", "/nothing", "/v1/models", "/admin/requests"):
            self.assertNotIn("server", house.ask("GET", path).headers, path)

    def test_told(self) -> None:
        """What is refused before it is a request is in the log, under the id that the client was told, and counted."""
        house = House(max_connections=2, request_timeout_ms=1000, metrics="public")
        told = []
        slow = house.caller().send(b"GET /hea")
        house.pass_time(2)
        told.append((408, "too_slow", slow))
        for data, status, outcome in (
            (b"hello\r\n\r\n", 400, "invalid_request"),
            (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000, 431, "head_too_large"),
        ):
            told.append((status, outcome, house.caller().send(data)))
        house.pass_time(2)
        for _ in range(2):
            house.caller().send(b"GET /hea")  # which will be too slow, too
        surplus = house.caller()
        house.network.pump()
        told.append((529, "overloaded", surplus))
        for status, outcome, caller in told:
            (line,) = [event for event in house.events if event.get("request_id") == caller.headers["request-id"]]
            self.assertEqual((line["status"], line["outcome"], line["log_level"].name), (status, outcome, "info"))
            self.assertEqual(caller.headers.get("x-should-retry"), "false" if status in (400, 431) else None)
        house.pass_time(3)
        scraped = house.ask("GET", "/metrics")
        house.pass_time(0.01)
        for status, outcome, _ in told:
            labels = f'{{outcome="{outcome}",status="{status}"}}'
            counted = scraped.body.decode().partition(f"claudeproxy_connections_refused_total{labels} ")[2].split()[0]
            self.assertEqual(float(counted), 3 if status == 408 else 1)

    def test_whole_address(self) -> None:
        """A request for a whole address goes by its path, below any prefix too (RFC 9112 3.2.2)."""
        house = House()
        for address in ("http://127.0.0.1:8080/v1/models", "HTTPS://localhost/team/v1/models?limit=1"):
            self.assertIn("data", house.ask("GET", address).json, address)
        for address in ("http://localhost/health", "http://localhost", "http://localhost?x"):
            self.assertEqual(house.ask("GET", address).status, 200, address)

    def test_whole_address_of_another(self) -> None:
        """Its host is the one that is checked, whatever the header says; without a host the header is."""
        house = House()
        for address in ("http://evil.example/v1/models", "http://localhost@evil.example/v1/models"):
            caller = house.ask("GET", address, headers={"host": "localhost"})
            self.assertEqual(check_error(caller.json, 403).type, "permission_error", address)
        self.assertEqual(house.ask("GET", "http:///v1/models", headers={"host": "evil.example"}).status, 403)

    def test_slash_at_the_end(self) -> None:
        """What monitors ask for is there with a slash at its end, too, and without a key."""
        house = House(keys=(Secret("key"),))
        for path in ("/health/", "/api/hello/", "/api/hello//", "//"):
            self.assertEqual(house.ask("GET", path).status, 200, path)
        for path in ("/v1/models/", "/healthy/", "/v1/health/"):
            self.assertEqual(house.ask("GET", path).status, 401, path)

    def test_star(self) -> None:
        """The path * is none of ours."""
        house = House()
        for method in ("GET", "OPTIONS"):
            caller = house.ask(method, "*")
            self.assertIn(caller.status, (404, 405))
            self.assertIn("request-id", caller.headers)
            check_error(caller.json, caller.status)
