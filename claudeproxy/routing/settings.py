"""What can be set. Pure. To add a setting, add an attribute::

    port: int = setting(8080, env="PORT", expects=whole_number(0, 65535), doc="The port to listen on.")

The classes check each value by itself, whoever makes them; `conflicts.conflicts` tells whether all fit together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import attrs

from claudeproxy.model.kinds import frozen
from claudeproxy.routing.backend_settings import BACKEND_NAME, DAY_MS, EMBEDDED, BackendSettings
from claudeproxy.routing.declarations import setting
from claudeproxy.routing.expectations import (
    endpoints,
    file_path,
    flag,
    list_of,
    one_of,
    text,
    whole_number,
)
from claudeproxy.routing.keys import Key, client_keys

__all__ = ["BACKEND_NAME", "EMBEDDED", "MODEL_NAME", "BackendSettings", "Settings"]

_NAME = r"[^\s\x00-\x1f](?:[^\x00-\x1f]*[^\s\x00-\x1f])?"
_HOST = r"[A-Za-z0-9._-]+|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*"
_ORIGIN = r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@,]+"

MODEL_NAME = text("a model name", _NAME)
"""A name in the model map or its target: any text that neither begins nor ends with a space."""


def _tuple(backends: Iterable[BackendSettings]) -> tuple[BackendSettings, ...]:
    return tuple(backends)


def _read_only(models: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(models))


def _in_written_order(models: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(models.items())


@frozen
class Settings:
    """Everything the user settled. Two are equal if they mean the same, the order of the model map included."""

    host: str = setting(
        "127.0.0.1",
        env="HOST",
        expects=text("an IP address or a host name", _HOST),
        doc="The address to listen on. Beyond loopback keys are needed.",
        restart=True,
    )
    port: int = setting(
        8080,
        env="PORT",
        expects=whole_number(0, 65535),
        doc="The port to listen on; 0 is any free one.",
        restart=True,
    )
    listen: tuple[str, ...] = setting(
        (),
        env="LISTEN",
        expects=endpoints(),
        doc="Where to listen, instead of `host` and `port`: any number of Twisted's endpoint strings (`tcp:`, `ssl:`, "
        "`unix:`, `systemd:` …), outside of the file with blanks between them.",
        restart=True,
    )
    admin_listen: tuple[str, ...] = setting(
        (),
        env="ADMIN_LISTEN",
        expects=endpoints(),
        doc="Where to listen for operators and their monitors, who need no key there; written as `listen`. Beyond "
        "loopback only with `open_to_all`.",
        restart=True,
    )
    open_to_all: bool = setting(
        False,
        env="OPEN_TO_ALL",
        expects=flag(),
        doc="Whether other machines may come in without a key, and to `admin_listen`: only where something in front of "
        "the proxy decides who comes in.",
    )
    log_level: str = setting(
        "info",
        env="LOG_LEVEL",
        expects=one_of("debug", "info", "warn", "error"),
        doc="The least important lines that are still logged.",
    )
    log_format: str = setting(
        "text",
        env="LOG_FORMAT",
        expects=one_of("text", "json"),
        doc="How lines of the log are written: `text` for people, `json` for machines, one object a line.",
    )
    metrics: str = setting(
        "public",
        env="METRICS",
        expects=one_of("public", "admin", "off"),
        doc="Where `/metrics` is: on every listener, for who has a key (`public`), on the admin listener alone "
        "(`admin`), or nowhere.",
    )
    default_model: str = setting(
        "",
        env="DEFAULT_MODEL",
        expects=text("a model name", f"(?:{_NAME})?"),
        doc="The model for every name which the model map does not know.",
    )
    keys: tuple[Key, ...] = setting(
        (),
        env="CLAUDEPROXY_KEYS",
        expects=client_keys(),
        doc="The keys that clients may show, as `x-api-key` or as Bearer; without any, every local client may come in. "
        "`python -m claudeproxy key` makes one. In the file also a table of names and keys.",
    )
    keys_file: str = setting(
        "",
        env="CLAUDEPROXY_KEYS_FILE",
        expects=file_path(),
        doc="The path of a file with more of them, one a line, where `#` begins a comment; read at the start and at a "
        "reload.",
    )
    allowed_hosts: tuple[str, ...] = setting(
        (),
        env="ALLOWED_HOSTS",
        expects=list_of(text("host names without scheme and port", _HOST)),
        doc="Names under which clients may reach the proxy, beside its own address, such as `host.docker.internal`.",
    )
    allowed_origins: tuple[str, ...] = setting(
        (),
        env="ALLOWED_ORIGINS",
        expects=list_of(text("origins such as https://app.example", _ORIGIN)),
        doc="Origins whose requests are let in, such as a desktop app's that sends one. No CORS header is ever sent, "
        "so that a page in a browser stays outside.",
    )
    body_limit_mb: int = setting(
        32,
        env="BODY_LIMIT_MB",
        expects=whole_number(1, 1024),
        doc="The largest request body, in MiB.",
    )
    header_limit_kb: int = setting(
        16,
        env="HEADER_LIMIT_KB",
        expects=whole_number(1, 1024),
        doc="The largest request line and headers together, in KiB.",
    )
    nesting_limit: int = setting(
        100,
        env="NESTING_LIMIT",
        expects=whole_number(16, 150),
        doc="How many levels deep the JSON of a request may be nested.",
    )
    max_requests: int = setting(
        10_000,
        env="MAX_REQUESTS",
        expects=whole_number(0, 1_000_000),
        doc="How many requests may be answered at a time, a stream until its end; 0 is without a limit. Health, "
        "metrics and model lists do not count.",
    )
    max_requests_per_key: int = setting(
        0,
        env="MAX_REQUESTS_PER_KEY",
        expects=whole_number(0, 1_000_000),
        doc="How many of them one key may have, or where no keys are set one client address; 0 is without a limit. "
        "Counts of tokens do not count here, because Claude Code asks for thirty at once.",
    )
    max_connections: int = setting(
        0,
        env="MAX_CONNECTIONS",
        expects=whole_number(0, 1_000_000),
        doc="How many connections clients may have open; above it the one that lay idle for longest is closed. 0 is as "
        "many as the process has descriptors for, with one for the backend beside each.",
    )
    request_timeout_ms: int = setting(
        30_000,
        env="REQUEST_TIMEOUT_MS",
        expects=whole_number(1, DAY_MS),
        doc="How long a client may take for a request's headers, and in how much time at least 1 KiB a second of its "
        "body must come, in milliseconds.",
    )
    idle_ms: int = setting(
        60_000,
        env="IDLE_MS",
        expects=whole_number(1, DAY_MS),
        doc="How long a connection without a request stays open, in milliseconds.",
    )
    grace_ms: int = setting(
        2000,
        env="GRACE_MS",
        expects=whole_number(0, DAY_MS),
        doc="How long an answer waits for the server's first event, so that a failure can still be a plain HTTP "
        "error, in milliseconds.",
    )
    ping_ms: int = setting(
        10_000,
        env="PING_MS",
        expects=whole_number(1, DAY_MS),
        doc="The silence after which a stream carries a ping, in milliseconds.",
    )
    liveness_ms: int = setting(
        60_000,
        env="LIVENESS_MS",
        expects=whole_number(1, DAY_MS),
        doc="The silence of the model after which the signs of life are empty pieces of an answer, which every client "
        "takes for life, rather than pings, with which it gives up after minutes, in milliseconds.",
    )
    interrupt_ms: int = setting(
        60_000,
        env="INTERRUPT_MS",
        expects=whole_number(0, DAY_MS),
        doc="A client that leaves within this time of its request has given up on purpose, and what runs for it is "
        "cancelled, in milliseconds.",
    )
    linger_ms: int = setting(
        15_000,
        env="LINGER_MS",
        expects=whole_number(0, DAY_MS),
        doc="How long an answer of which nothing was delivered yet goes on without its client, so that a retry "
        "finds it, in milliseconds; 0 is not at all.",
    )
    drain_ms: int = setting(
        30_000,
        env="DRAIN_MS",
        expects=whole_number(0, DAY_MS),
        doc="How long running streams may go on when the daemon is told to stop, in milliseconds.",
    )
    client_window: int = setting(
        0,
        env="CLIENT_WINDOW",
        expects=whole_number(0, 100_000_000),
        doc="The context window that clients believe in, in tokens, if it is larger than the model's: what they are "
        "told of a prompt's size is then as much larger, so that they compact in time. 0 tells the truth.",
    )
    state_file: str = setting(
        "",
        env="STATE_FILE",
        expects=text("the path of a file, or none", r"[^\x00-\x1f]*"),
        doc="Where it is kept across restarts what was learned of models' token counts, a few KB; `none` is nowhere. "
        "Without it `claudeproxy/counts.json` in the user's folder for such things, or in systemd's state directory.",
        restart=True,
    )
    admin_keys: tuple[Key, ...] = setting(
        (),
        env="CLAUDEPROXY_ADMIN_KEYS",
        expects=client_keys(),
        doc="The keys, written as `keys` are, that open `/admin` to clients that are not local, as `x-api-key` or as "
        "Bearer. None opens `/v1`.",
    )
    recorder_size: int = setting(
        100,
        env="RECORDER_SIZE",
        expects=whole_number(0, 10_000),
        doc="How many requests the flight recorder keeps in memory; 0 turns it off.",
    )
    recorder_content: bool = setting(
        False,
        env="RECORDER_CONTENT",
        expects=flag(),
        doc="Whether the flight recorder also keeps what requests and answers say, the first 64 KiB of each body. "
        "Without it, sizes and kinds only.",
    )
    tracing: bool = setting(
        False,
        env="TRACING",
        expects=flag(),
        doc="Whether requests are traced with OpenTelemetry. Needs the extra `[otel]`; where traces go, the standard "
        "`OTEL_…` variables say.",
        restart=True,
    )
    models: Mapping[str, str] = attrs.field(default=MappingProxyType({}), converter=_read_only, eq=_in_written_order)
    """Name, pattern or family -> target, in written order."""
    backends: tuple[BackendSettings, ...] = attrs.field(
        default=(EMBEDDED,), converter=_tuple, validator=attrs.validators.min_len(1)
    )
    """The first is the default one."""
