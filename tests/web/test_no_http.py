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

    def test_slash_within(self) -> None:
        """A slash too many within a path is another path, and not a redirect, which nobody follows with a key."""
        house = House()
        for method, path in (("GET", "/v1//models"), ("POST", "/v1//messages")):
            check_error(house.ask(method, path).json, 404)
            self.assertEqual(house.request_lines[-1]["outcome"], "not_found")

    def test_star(self) -> None:
        """The path * is none of ours."""
        house = House()
        for method in ("GET", "OPTIONS"):
            caller = house.ask(method, "*")
            self.assertIn(caller.status, (404, 405))
            self.assertIn("request-id", caller.headers)
            check_error(caller.json, caller.status)
