"""What differs between servers that all say they speak Chat Completions (PROTOCOL appendix C), as data."""

from attrs import frozen


@frozen
class Dialect:
    """One server family. Every cell can be set for a backend in the settings file."""

    name: str
    #: The field that limits the answer, in tokens.
    max_tokens_field: str = "max_tokens"
    #: ``fold`` a system message of mid-conversation into the turn before it, or ``keep`` it as a message of its own.
    system_midway: str = "fold"
    #: The role of system messages.
    system_role: str = "system"
    #: How many stop sequences the server takes. They are watched for by the proxy either way, see `stop_strings`.
    top_k: bool = True
    #: Asks for usage at the stream's end.
    include_usage: bool = True
    #: llama.cpp: a sign of life with exact prompt counts before the first token, and cancel in prefill.
    return_progress: bool = False
    #: llama.cpp: counts on every chunk, for streams that the proxy may cut itself.
    timings_per_token: bool = False
    #: vLLM: usage on every chunk, likewise.
    continuous_usage: bool = False
    #: Where exact counts come from: ``llama.cpp``, or nowhere.
    counting: str = ""
    #: Sampling parameters that make a reasoning model refuse the request are left out for these model prefixes.
    fixed_sampling: tuple[str, ...] = ()


_OPENAI_REASONING = ("gpt-5", "o1", "o3", "o4")

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "openai",
            max_tokens_field="max_completion_tokens",
            system_midway="keep",
            system_role="developer",
            top_k=False,
            fixed_sampling=_OPENAI_REASONING,
        ),
        Dialect("llama.cpp", return_progress=True, timings_per_token=True, counting="llama.cpp"),
        Dialect("vllm", continuous_usage=True),
        Dialect("lmstudio"),
        Dialect("openrouter", system_midway="keep"),
        Dialect("deepseek", system_midway="keep", top_k=False),
        Dialect("kimi", system_midway="keep", top_k=False),
        Dialect("glm", system_midway="keep", top_k=False),
        Dialect("ollama-compat", top_k=False),
        Dialect("generic", top_k=False),
    )
}

#: Whose address says which dialect it speaks: a part of the host name, and the dialect.
_HOSTS = (
    ("api.openai.com", "openai"),
    ("openrouter.ai", "openrouter"),
    ("deepseek.com", "deepseek"),
    ("moonshot.", "kimi"),
    ("bigmodel.cn", "glm"),
    ("z.ai", "glm"),
)


def dialect_of_host(host: str) -> Dialect | None:
    """The dialect that a well-known host speaks; None for a host that must be asked."""
    for part, name in _HOSTS:
        if host == part or host.endswith("." + part) or (part.endswith(".") and part in host):
            return DIALECTS[name]
    return None
