"""What differs between servers that all say they speak Chat Completions (PROTOCOL appendix C), as data.

A row is a server family, an attribute a difference. The settings file can set every cell anew for a backend.
"""

from attrs import field
from attrs.validators import in_

from claudeproxy.model.kinds import frozen


@frozen
class Dialect:
    """One server family. The defaults are those of a server of which nothing is known."""

    name: str

    # ---- the request's frame
    #: The field that limits the answer, in tokens.
    max_tokens_field: str = field(default="max_tokens", validator=in_(("max_tokens", "max_completion_tokens")))
    #: The longest answer that may be asked for, in tokens; 0 for no limit. Claude Code asks for 128,000.
    max_output: int = 0
    #: The shortest answer that the Responses API may be asked for, in tokens; it refuses less.
    least_output: int = 0
    #: Whether ``top_k`` is known.
    top_k: bool = False
    #: Models, by the beginning of their names, that refuse a request with sampling parameters.
    fixed_sampling: tuple[str, ...] = ()
    #: Whether ``service_tier`` is known.
    service_tier: bool = False
    #: One key a session makes the server keep the session's prefix at one place.
    prompt_cache_key: bool = False
    #: Whether the server wants to tell a key's users apart: it gets a hash of what the client calls its user.
    safety_identifier: bool = False
    #: How an answer is continued that the client began: the server does it by itself (``native``), by vLLM's two
    #: fields (``vllm``), or not at all (``refuse``).
    prefill: str = field(default="native", validator=in_(("native", "vllm", "refuse")))

    # ---- system messages
    system_role: str = field(default="system", validator=in_(("system", "developer")))
    #: ``fold`` a system message of mid-conversation into the turn beside it, or ``keep`` it as a message of its own.
    system_midway: str = field(default="fold", validator=in_(("fold", "keep")))

    # ---- tools
    #: ``no``: the model's template has no place for tools and would drop them silently.
    tools: str = field(default="yes", validator=in_(("yes", "no")))
    #: ``words``: ``tool_choice`` is ignored or refused; the model is asked in words, and for "none" gets no tools.
    tool_choice: str = field(default="field", validator=in_(("field", "words")))
    #: Whether a call can be demanded of a model that thinks; else such a request is answered without thinking.
    demands_while_thinking: bool = True
    #: ``only``: the object form is ignored, so that just the one tool is sent, as required.
    tool_choice_named: str = field(default="object", validator=in_(("object", "only")))
    #: Whether ``parallel_tool_calls`` is known. Where it is not, or is not obeyed, the proxy keeps the first call.
    parallel_flag: bool = False
    #: Whether ``strict`` of a tool is known.
    strict_tools: bool = False
    #: Whether a tool's result may hold images itself, in the Responses API; elsewhere they follow it.
    result_images: bool = False
    #: ``grammar``: schemas are compiled to a grammar, which some keywords break.
    schemas: str = field(default="full", validator=in_(("full", "grammar")))

    # ---- structured output
    #: The best that the server has: a schema, any JSON object, or nothing but being asked to.
    schema_output: str = field(default="json_object", validator=in_(("json_schema", "json_object", "prompt")))

    # ---- images
    #: ``unknown`` images are sent, and an error says what happened.
    images: str = field(default="unknown", validator=in_(("yes", "no", "unknown")))
    #: The media types that the server can decode; none for a server of which nothing is known.
    image_types: tuple[str, ...] = ()

    # ---- reasoning
    #: How thinking is asked for; see ``translate.thinking``.
    thinking: str = field(
        default="none",
        validator=in_(("none", "effort", "template", "openrouter", "deepseek", "kimi", "glm", "lmstudio", "ollama")),
    )
    #: A model that cannot think refuses to be asked; it is asked once more without.
    may_refuse_thinking: bool = False
    #: The field that takes a thinking budget, in tokens.
    budget_field: str = ""
    #: The field in which earlier reasoning goes back; empty for none.
    reasoning_echo: str = field(
        default="", validator=in_(("", "reasoning_content", "reasoning", "reasoning_details", "thinking"))
    )
    #: A turn with calls but without reasoning is refused: an empty text stands in.
    echo_required: bool = False
    #: Thinking may come as ``<think>`` tags at the beginning of the text (rows 34 to 36).
    think_tags: bool = True
    #: The template has written the opening tag already (row 35).
    starts_thinking: bool = False

    # ---- the window
    #: A prompt that is too long is shortened without a word: the proxy refuses it first.
    cuts_silently: bool = False
    #: Ollama: the window to ask for, in tokens; 0 for what the settings and the model itself say.
    num_ctx: int = 0

    # ---- the stream
    #: It ends without ``[DONE]`` and without a finish reason: only then is a plain end of the body no cut (row 50).
    ends_without_done: bool = False

    # ---- counts
    #: Asks for usage at the stream's end.
    include_usage: bool = True
    #: llama.cpp: a sign of life with exact prompt counts before the first token, and cancel in prefill.
    return_progress: bool = False
    #: llama.cpp: counts on every chunk, for streams that the proxy may cut itself.
    timings_per_token: bool = False
    #: vLLM: usage on every chunk, likewise.
    continuous_usage: bool = False
    #: Whose way of counting exactly the server has; "" for none.
    counting: str = field(default="", validator=in_(("", "llama.cpp", "vllm")))


DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "openai",
            max_tokens_field="max_completion_tokens",
            least_output=16,
            fixed_sampling=("gpt-5", "o1", "o3", "o4"),
            service_tier=True,
            prompt_cache_key=True,
            safety_identifier=True,
            prefill="refuse",
            system_role="developer",
            system_midway="keep",
            parallel_flag=True,
            strict_tools=True,
            result_images=True,
            schema_output="json_schema",
            images="yes",
            thinking="effort",
            think_tags=False,
        ),
        Dialect(
            "llama.cpp",
            top_k=True,
            tool_choice_named="only",
            parallel_flag=True,
            schemas="grammar",
            schema_output="json_schema",
            # Without WebP, which it refuses or, in some versions, leaves out without a word; of GIFs the first picture.
            image_types=("image/png", "image/jpeg", "image/jpg", "image/gif", "image/bmp"),
            thinking="template",
            budget_field="thinking_budget_tokens",
            reasoning_echo="reasoning_content",
            return_progress=True,
            timings_per_token=True,
            counting="llama.cpp",
        ),
        Dialect(
            "vllm",
            top_k=True,
            prefill="vllm",
            parallel_flag=True,
            schema_output="json_schema",
            thinking="template",
            reasoning_echo="reasoning",
            continuous_usage=True,
            counting="vllm",
        ),
        Dialect(
            "lmstudio",
            tool_choice_named="only",
            cuts_silently=True,
            top_k=True,
            schemas="grammar",
            schema_output="json_schema",
            thinking="lmstudio",
            may_refuse_thinking=True,
            reasoning_echo="reasoning_content",
        ),
        Dialect(
            "openrouter",
            top_k=True,
            system_midway="keep",
            parallel_flag=True,
            schema_output="json_schema",
            thinking="openrouter",
            reasoning_echo="reasoning_details",
            think_tags=False,
        ),
        Dialect(
            "deepseek",
            demands_while_thinking=False,
            system_midway="keep",
            images="no",
            thinking="deepseek",
            reasoning_echo="reasoning_content",
            echo_required=True,
            think_tags=False,
        ),
        Dialect(
            "kimi",
            demands_while_thinking=False,
            system_midway="keep",
            prompt_cache_key=True,
            thinking="kimi",
            reasoning_echo="reasoning_content",
            echo_required=True,
            think_tags=False,
        ),
        Dialect(
            "glm",
            tool_choice="words",
            tool_choice_named="only",
            system_midway="keep",
            thinking="glm",
            reasoning_echo="reasoning_content",
            think_tags=False,
        ),
        Dialect(
            "ollama",  # its own API; everything else here is Chat Completions
            top_k=True,
            tool_choice="words",
            tool_choice_named="only",
            schemas="grammar",
            schema_output="json_schema",
            thinking="ollama",
            may_refuse_thinking=True,
            reasoning_echo="thinking",
            include_usage=False,
        ),
        Dialect(
            "ollama-compat",
            tool_choice="words",
            tool_choice_named="only",
            cuts_silently=True,
            schema_output="json_schema",
            reasoning_echo="reasoning",
        ),
        Dialect("generic"),
    )
}

#: The families that speak Chat Completions; Ollama's own API is a provider's.
CHAT_DIALECTS = {name: dialect for name, dialect in DIALECTS.items() if name != "ollama"}

#: Whose address says which dialect it speaks: the end of the host's name, and the dialect.
_HOSTS = (
    ("api.openai.com", "openai"),
    ("openai.azure.com", "openai"),
    ("openrouter.ai", "openrouter"),
    ("deepseek.com", "deepseek"),
    ("moonshot.ai", "kimi"),
    ("moonshot.cn", "kimi"),
    ("api.kimi.com", "kimi"),
    ("bigmodel.cn", "glm"),
    ("z.ai", "glm"),
)


def dialect_of_host(host: str) -> Dialect | None:
    """The dialect that a well-known host speaks; None for a host that must be asked."""
    host = host.lower().removesuffix(".")
    for known, name in _HOSTS:
        if host == known or host.endswith("." + known):
            return DIALECTS[name]
    return None
