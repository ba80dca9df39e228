"""What runs in the embedded model's process: llama.cpp's server, and a leash.

``python -m claudeproxy.backends.embedded_child`` speaks one line of JSON each way, and then holds its breath:

- in, on stdin: `Orders`. Never argv or the environment, so that ``ps`` shows no key.
- out, on stdout: ``{"host", "port", "window"}`` once it serves, or ``{"error"}`` and exit status 1.
- the end of stdin is the order to end, and it is given by the kernel however the parent dies. Signals that a
  terminal or a service manager sends to the whole group are ignored: the parent decides, it may be draining.

The leash must hold while llama.cpp loads a model, too. Its constructor keeps the interpreter's lock for as long as
that takes (measured: 44 s without a single switch of threads), so that no Python code could watch stdin. Until it
returns the kernel does: with O_ASYNC a pipe that loses its writer raises SIGIO, whose default is to end the process.

Closed on purpose (issue 2, item 1): a key on every route but /health; no CORS; no web UI; no remote downloads; its
log holds errors only, and at that level no prompt text of a request that succeeds.
"""

import fcntl
import http.client
import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

from attrs import asdict, field

from claudeproxy.backends.gguf import check_gguf
from claudeproxy.backends.unusable import UnusableModel
from claudeproxy.model.kinds import frozen

#: llama.cpp looks for a client that hung up between two batches: at 2048, its default, a cancelled prefill went on
#: for 8 to 11 s; at 256 for 0.7 s.
BATCH = 256
#: Prompts of earlier conversations are kept in memory to be taken up again. llama.cpp's default is 8192 MiB.
PROMPT_CACHE_MIB = 1024

_ERRORS_ONLY = 1
_LEASH_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@frozen
class Orders:
    """What to serve. ``window`` is in tokens, 0 is the model's own; an empty ``chat_template`` is the model's own.

    ``sampling`` is what applies where a request says nothing, by llama.cpp's names.
    """

    gguf: str
    alias: str
    key: str = field(repr=False)
    window: int = 0
    chat_template: str = ""
    sampling: dict[str, float] = field(factory=dict)

    def to_line(self) -> bytes:
        """One line of JSON, as the child reads it."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Orders":
        """The inverse of `to_line`; raises ValueError or TypeError for anything else."""
        return cls(**json.loads(line))


def main() -> None:
    """Serve until stdin ends."""
    for number in _LEASH_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = _take_stdout()
    try:
        orders = Orders.from_line(sys.stdin.buffer.readline())
        end_with_stdin(True)
        check_gguf(Path(orders.gguf), orders.window)
        server = _start(orders)
        announcement = _announcement(server.listening_address, orders)
    except UnusableModel as problem:
        _say(parent, {"error": str(problem)})
        os._exit(1)
    except (ValueError, TypeError) as problem:
        _say(parent, {"error": f"The orders cannot be understood: {type(problem).__name__}"})
        os._exit(1)
    _say(parent, announcement)
    end_with_stdin(False)
    while os.read(0, 4096):
        pass
    # Not sys.exit: a server that is busy with a prompt would be waited for.
    os._exit(0)


def _take_stdout() -> int:
    """A private copy of stdout; the public one becomes stderr, so that only announcements reach the parent."""
    private = os.dup(1)
    os.dup2(2, 1)
    return private


def _say(parent: int, message: dict[str, object]) -> None:
    try:
        os.write(parent, json.dumps(message).encode() + b"\n")
    except BrokenPipeError:
        os._exit(1)


def end_with_stdin(armed: bool) -> None:
    """Let the kernel end this process when stdin's writer goes, or leave that to `main` again."""
    signal.signal(signal.SIGIO, signal.SIG_DFL if armed else signal.SIG_IGN)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(0, fcntl.F_GETFL)
    fcntl.fcntl(0, fcntl.F_SETFL, flags | os.O_ASYNC if armed else flags & ~os.O_ASYNC)
    if armed and select.select([0], [], [], 0)[0]:  # the writer went before we looked
        os._exit(0)


def threads(cores: int) -> int:
    """How many threads compute: all cores but one.

    They wait for each other thousands of times a token, spinning: as soon as anything else wants their last core,
    all of them stand still with it (measured on 2 busy cores: 0.8 to 7 tokens/s with two threads, 36 to 40 with one).
    """
    return max(1, cores - 1)


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _start(orders: Orders) -> Any:
    """A running ``xllamacpp.Server``; it serves for as long as the object lives."""
    try:
        import xllamacpp
    except ImportError as error:
        raise UnusableModel(f"xllamacpp cannot be imported: {error}") from None
    params = xllamacpp.CommonParams()
    params.model.path = orders.gguf
    params.model_alias = {orders.alias}
    params.api_keys = [orders.key]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = orders.window
    params.n_parallel = 1
    params.n_batch = params.n_ubatch = BATCH
    params.cpuparams.n_threads = threads(_cores())
    params.ctx_shift = False  # a prompt that does not fit is an error, not a prompt with its middle cut out
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.use_jinja = True
    params.chat_template = orders.chat_template
    for name, value in orders.sampling.items():
        setattr(params.sampling, name, value)
    params.endpoint_slots = True
    params.ui = False
    params.offline = True
    # An empty list of origins: the header is sent without a value, which no browser accepts for any origin.
    params.cors_origins = ""
    params.cors_methods = ""
    params.cors_headers = ""
    params.cors_credentials = False
    params.verbosity = _ERRORS_ONLY
    try:
        return xllamacpp.Server(params)
    except RuntimeError:
        raise UnusableModel(f"llama.cpp cannot serve {orders.gguf}; its own words are in the log.") from None


def _announcement(address: str, orders: Orders) -> dict[str, object]:
    """Where it serves, with the window that llama.cpp really made, asked of itself."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request("GET", "/props", headers={"Authorization": f"Bearer {orders.key}"})
    props = json.loads(connection.getresponse().read())
    connection.close()
    return {"host": host, "port": int(port), "window": props["default_generation_settings"]["n_ctx"]}


if __name__ == "__main__":
    main()
