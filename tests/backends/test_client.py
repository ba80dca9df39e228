"""HTTP to one backend: failures to reach it, and answers that are read whole (PROTOCOL 5.3; STYLE P1, P8, P9)."""

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseFailed, ResponseNeverReceived
from twisted.web.iweb import IResponse
from twisted.web.server import Site

from claudeproxy.backends.client import BackendClient, Target, describe, read_body
from claudeproxy.model.problems import Problem, Refusal
from tests.fakes.network import Network
from tests.fakes.openai import Cut, FakeOpenAI, Hang, Headers, Script, Send, Wait, error, json_body, silent, text

URL = "http://127.0.0.1:9000/v1/chat/completions"


class Nonsense(Protocol):
    """A server that speaks no HTTP."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        self.transport.loseConnection()


class Endless(Protocol):
    """A server that never comes to its answer."""

    said = b"", b""
    gone = False

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(self.said[0] + self.said[1] * 20_000)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        type(self).gone = True


class ClientCase(SynchronousTestCase):
    """A client and a backend on a network in memory."""

    def setUp(self) -> None:
        self.network = Network()
        self.fake = FakeOpenAI(self.network)
        self.network.listenTCP(9000, Site(self.fake, reactor=self.network))
        self.client = BackendClient.over_network("box", self.network, 10)

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        running = Deferred.fromCoroutine(coroutine)
        self.network.pump()
        return running

    def post(self, url: str = URL, headers: dict[str, str] | None = None) -> Deferred[IResponse]:
        return self.begin(self.client.post(url, b'{"stream":true}', headers or {}))

    def get(self, url: str = "http://127.0.0.1:9000/v1/models") -> Deferred[tuple[int, Any]]:
        return self.begin(self.client.get(url, {}))

    def refused(self, running: Deferred[Any]) -> Problem:
        refusal = self.failureResultOf(running, Refusal).value
        assert isinstance(refusal, Refusal)
        self.assertIn("box", refusal.problem.message)
        return refusal.problem

    def body(self, response: IResponse, longest: int = 10**6) -> Deferred[bytes]:
        return self.begin(read_body(response, longest))


class PostTests(ClientCase):
    """`BackendClient.post`."""

    def test_sent(self) -> None:
        """What was given is sent, with its length, without compression, and nothing of the client's own."""
        self.successResultOf(self.post(headers={"authorization": "Bearer k", "content-type": "application/json"}))
        (chat,) = self.fake.chats
        self.assertEqual((chat.method, chat.body), ("POST", b'{"stream":true}'))
        self.assertEqual(chat.header("authorization"), "Bearer k")
        self.assertEqual(chat.header("content-length"), "15")
        self.assertEqual(chat.headers.getRawHeaders("accept-encoding"), ["identity"])

    def test_before_the_body(self) -> None:
        """The response is there with its headers; its body is still to come."""
        self.fake.plays(Script(steps=[Headers(), Wait(5), Send(b"x")]))
        response = self.successResultOf(self.post())
        body = self.body(response)
        self.assertNoResult(body)
        self.network.pass_time(5)
        self.assertEqual(self.successResultOf(body), b"x")

    def test_refused(self) -> None:
        """Nobody listens: an overload, because it may come back."""
        del self.network.listeners[9000]
        running = self.post()
        self.network.pass_time(1)
        problem = self.refused(running)
        self.assertEqual((problem.status, problem.type), (529, "overloaded_error"))

    def test_no_such_name(self) -> None:
        """A name that nobody knows."""
        self.assertEqual(self.refused(self.post("http://nowhere.example/v1")).status, 529)

    def test_never_connected(self) -> None:
        """A connection is not waited for longer than the limit of the settings."""
        self.network.black_holes.add(9000)
        running = self.post()
        self.network.pass_time(9.9)
        self.assertNoResult(running)
        self.network.pass_time(0.2)
        self.assertEqual(self.refused(running).status, 529)

    def test_no_http(self) -> None:
        """Something that speaks no HTTP."""
        self.network.listenTCP(9001, Factory.forProtocol(Nonsense))
        self.assertIn(self.refused(self.post("http://127.0.0.1:9001/v1")).status, (502, 529))

    def test_endless_head(self) -> None:
        """Headers without end, or word after word that an answer is to come, are given up with the connection."""
        interim = b"HTTP/1.1 102 Processing\r\n\r\n"
        for port, *said in ((9001, b"HTTP/1.1 200 OK\r\n", b"x-more: and more\r\n"), (9002, interim, interim)):
            server = type("Server", (Endless,), {"said": said})
            self.network.listenTCP(port, Factory.forProtocol(server))
            problem = self.refused(self.post(f"http://127.0.0.1:{port}/v1"))
            self.assertEqual(problem.status, 529)
            self.assertIn("headers of more than 64 KiB", problem.message)
            self.assertTrue(server.gone)

    def test_long_head(self) -> None:
        """Long headers are headers still, and so are those of a connection that is used again."""
        self.fake.answers = lambda body: Script(headers={f"x-{n}": "y" * 9000 for n in range(5)}, steps=[Send(b"x")])
        for _ in range(3):
            response = self.successResultOf(self.post())
            self.assertEqual(self.successResultOf(self.body(response)), b"x")

    def test_stale(self) -> None:
        """A kept connection that was closed meanwhile is replaced, once, and nobody notices."""
        self.successResultOf(self.body(self.successResultOf(self.post())))
        (_, far) = self.network.ends
        far.loseConnection()
        response = self.successResultOf(self.post())
        self.assertEqual((response.code, len(self.fake.chats)), (200, 2))

    def test_all_stale(self) -> None:
        """Nor does anybody if several were closed: what replaces one is not another that was kept."""
        running = [Deferred.fromCoroutine(self.client.post(URL, b'{"stream":true}', {})) for _ in range(3)]
        self.network.pump()
        for response in [self.successResultOf(each) for each in running]:
            self.successResultOf(self.body(response))
        for far in self.network.ends[1::2]:
            far.loseConnection()
        response = self.successResultOf(self.post())
        self.assertEqual((response.code, len(self.fake.chats)), (200, 4))

    def test_once_only(self) -> None:
        """A server that hangs up on every request is asked twice, and not more often."""
        self.fake.answers = lambda body: Script(steps=[Cut()])
        self.assertEqual(self.refused(self.post()).status, 529)
        self.assertEqual(len(self.fake.chats), 2)
        self.assertEqual(self.client.resends, {"box": 1})

    def test_not_repeated(self) -> None:
        """A request that was being served when the connection broke is not sent again."""
        self.fake.answers = lambda body: Script(steps=[Wait(2), Cut()])
        running = self.post()
        self.network.pass_time(5)
        self.refused(running)
        self.assertEqual(len(self.fake.chats), 1)
        self.assertEqual(self.client.resends, {})

    def test_redirect(self) -> None:
        """A redirect is an answer like any other; it is not followed (row 79)."""
        self.fake.plays(error(302, "", {"location": "http://127.0.0.1:9000/elsewhere"}))
        self.assertEqual(self.successResultOf(self.post()).code, 302)
        self.assertEqual(len(self.fake.received), 1)

    def test_cancelled(self) -> None:
        """Cancelling closes the connection, while it is made and while the headers are awaited; nothing is repeated."""
        self.network.black_holes.add(9000)
        running = self.post()
        (connector,) = self.network.connecting
        running.cancel()
        self.failureResultOf(running)
        self.assertTrue(connector.was_stopped)
        self.network.black_holes.clear()
        self.fake.plays(silent(headers=False))
        running = self.post()
        running.cancel()
        self.network.pump()
        self.failureResultOf(running)
        self.assertEqual([chat.is_gone for chat in self.fake.chats], [True])


class BodyTests(ClientCase):
    """`read_body`."""

    def test_bounded(self) -> None:
        """It is cut at the limit, and the connection is closed rather than read to its end."""
        self.fake.plays(Script(steps=[Send(b"x" * 100), Send(b"y" * 100), Hang()]))
        self.assertEqual(
            self.successResultOf(self.body(self.successResultOf(self.post()), 150)), b"x" * 100 + b"y" * 50
        )
        self.assertTrue(self.fake.chats[0].is_gone)

    def test_cut(self) -> None:
        """What came of a body that breaks off is still worth showing."""
        self.fake.plays(Script(status=500, steps=[Send(b"half a mess"), Cut()]))
        self.assertEqual(self.successResultOf(self.body(self.successResultOf(self.post()))), b"half a mess")

    def test_cancelled(self) -> None:
        """Cancelling closes the connection (treq's own reader would not)."""
        self.fake.plays(Script(steps=[Send(b"x"), Hang()]))
        body = self.body(self.successResultOf(self.post()))
        body.cancel()
        self.network.pump()
        self.failureResultOf(body)
        self.assertTrue(self.fake.chats[0].is_gone)


class SmallTests(ClientCase):
    """`BackendClient.get` and `BackendClient.ask`."""

    def test_json(self) -> None:
        """Status and value; an error's, too; None for what is no JSON."""
        status, value = self.successResultOf(self.get())
        self.assertEqual((status, value["object"]), (200, "list"))
        status, value = self.successResultOf(self.get("http://127.0.0.1:9000/nowhere"))
        self.assertEqual((status, value["error"]["type"]), (404, "invalid_request_error"))
        self.fake.others[("POST", "/tokenize")] = lambda body: error(200, "<html>")
        asked = self.begin(self.client.ask("http://127.0.0.1:9000/tokenize", b"{}", {}))
        self.assertEqual(self.successResultOf(asked), (200, None))

    def test_too_late(self) -> None:
        """A server that does not answer a small question is not waited for; its connection is closed."""
        for script in (silent(headers=False), silent()):
            self.fake.others[("GET", "/v1/models")] = lambda body, script=script: script  # type: ignore[misc]
            running = self.get()
            self.network.pass_time(60)
            self.assertEqual(self.refused(running).status, 529)
            self.assertTrue(self.fake.received[-1].is_gone)

    def test_cancelled(self) -> None:
        """Nor does it go on if nobody wants to know any more."""
        self.fake.others[("GET", "/v1/models")] = lambda body: silent()
        running = self.get()
        running.cancel()
        self.network.pump()
        self.failureResultOf(running)
        self.assertTrue(self.fake.received[0].is_gone)
        self.assertEqual(self.network.timers("client"), [])

    def test_broken(self) -> None:
        """A connection that breaks is a refusal."""
        self.fake.others[("GET", "/v1/models")] = lambda body: Script(steps=[Cut()])
        self.assertEqual(self.refused(self.get()).status, 529)


class KeepingTests(ClientCase):
    """Connections that lie idle."""

    def test_kept(self) -> None:
        """They serve again for a few seconds, less than the servers we know keep them, and are then closed."""
        for _ in range(3):
            self.successResultOf(self.body(self.successResultOf(self.post())))
            self.network.pass_time(3)
        self.assertEqual(len(self.network.ends), 2)
        self.network.pass_time(4.9)
        self.assertTrue(all(end.is_lost for end in self.network.ends))

    def test_closed(self) -> None:
        """Closing the client closes them."""
        self.successResultOf(self.body(self.successResultOf(self.post())))
        closing = self.client.close()
        self.network.pump()
        self.successResultOf(closing)
        self.assertTrue(all(end.is_lost for end in self.network.ends))

    def test_cut_is_not_kept(self) -> None:
        """A connection whose answer was not read to its end is never used again."""
        self.fake.plays(text("a"), json_body({}))
        self.body(self.successResultOf(self.post()), 5)
        self.successResultOf(self.body(self.successResultOf(self.post())))
        self.assertEqual(len(self.network.ends), 4)


class WordTests(SynchronousTestCase):
    """Values."""

    def test_target(self) -> None:
        """The root is where llama.cpp keeps what OpenAI does not have."""
        self.assertEqual(Target("http://h:1/v1").root, "http://h:1")
        self.assertEqual(Target("http://h:1/api").root, "http://h:1/api")

    def test_key_not_shown(self) -> None:
        """A target in a log or a traceback shows no key."""
        self.assertNotIn("canary", repr(Target("http://h:1/v1", "sk-canary")))

    def test_described(self) -> None:
        """Twisted's nested errors become the words of the innermost one."""
        inner = Failure(ConnectionDone("gone"))
        for fault in (ResponseNeverReceived([inner]), ResponseFailed([Failure(ResponseNeverReceived([inner]))])):
            self.assertIn("gone", describe(fault))
        self.assertEqual(describe(ValueError()), "ValueError")
