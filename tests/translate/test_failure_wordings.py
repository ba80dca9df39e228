"""The wordings of many servers' errors, and what each becomes (PROTOCOL 3.2, 3.3, rows 53, 76 and 77)."""

import json
from time import perf_counter

import pytest

from claudeproxy.model.problems import Problem
from claudeproxy.translate.failures import problem_from_error

BARE = "prompt is too long"
VLLM_SUM = (
    "'max_tokens' or 'max_completion_tokens' is too large: 128000. This model's maximum context length is 40960 "
    "tokens and your request has {} input tokens (128000 > 40960 - {})."
)
SGLANG_SUM = (
    "Requested token count exceeds the model's maximum context length of 40960 tokens. You requested a total of "
    "{} tokens: {} tokens from the input messages and 128000 tokens for the completion. Please reduce"
)
OPENROUTER_SUM = (
    "This endpoint's maximum context length is 131072 tokens. However, you requested about {} tokens "
    "({} of text input, 20000 of tool input, 20000 in the output). Please reduce"
)
FUNCTIONS_SUM = (
    "This model's maximum context length is 8192 tokens. However, you requested {} tokens "
    "({} in the messages, 500 in the functions, and 1500 in the completion). Please reduce"
)
PASSED = (
    "You passed {} input tokens and requested 1000 output tokens. However, the model's context length is only 32768 "
    "tokens, resulting in a maximum input length of 31768 tokens."
)
CONTAINS = (
    "This model's maximum context length is 40960 tokens. However, you requested 128000 output tokens and your "
    "prompt contains at least {} input tokens, for a total of at least {} tokens."
)


def exceeding(prompt: int, window: int) -> str:
    return f"prompt is too long: {prompt} tokens > {window} maximum"


def sum_exceeding(prompt: int, asked: int, window: int) -> str:
    return (
        f"input length and `max_tokens` exceed context limit: {prompt} + {asked} > {window}, "
        "decrease input length or `max_tokens` and try again"
    )


def said(words: object, answered: int = 400, /, **fields: object) -> Problem:
    return problem_from_error("box", {"error": {"message": words, **fields}}, answered)


@pytest.mark.parametrize(
    ("fields", "status", "kind"),
    [
        ({"code": "rate_limit_exceeded", "type": "tokens"}, 429, "rate_limit_error"),
        ({"type": "rate_limit_error"}, 429, "rate_limit_error"),
        ({"status": "RESOURCE_EXHAUSTED"}, 429, "rate_limit_error"),
        ({"metadata": {"error_type": "rate_limit_exceeded"}}, 429, "rate_limit_error"),
        ({"type": "overloaded_error"}, 529, "overloaded_error"),
        ({"code": "server_overloaded"}, 529, "overloaded_error"),
        ({"code": "insufficient_system_resource"}, 529, "overloaded_error"),
        ({"status": "UNAVAILABLE"}, 529, "overloaded_error"),
        ({"metadata": {"error_type": "provider_overloaded"}}, 529, "overloaded_error"),
        ({"type": "authentication_error"}, 401, "authentication_error"),
        ({"code": "invalid_api_key", "type": "invalid_request_error"}, 401, "authentication_error"),
        ({"type": "permission_error"}, 403, "permission_error"),
        ({"status": "PERMISSION_DENIED"}, 403, "permission_error"),
        ({"code": "insufficient_quota", "type": "insufficient_quota"}, 402, "billing_error"),
        ({"type": "billing_error"}, 402, "billing_error"),
        ({"type": "invalid_request_error"}, 400, "invalid_request_error"),
        ({"type": "BadRequestError", "code": None}, 400, "invalid_request_error"),
        ({"type": "not_found_error"}, 404, "not_found_error"),
        ({"code": "model_not_found", "type": "invalid_request_error"}, 404, "not_found_error"),
        ({"status": 429}, 429, "rate_limit_error"),
        ({"status": "403"}, 403, "permission_error"),
        ({"code": 402, "type": "rate_limit_error"}, 402, "billing_error"),
        ({"code": "server_error", "type": "api_error"}, 502, "api_error"),
        ({"code": ["rate_limit"], "metadata": "overloaded"}, 502, "api_error"),
    ],
)
def test_word_for_a_status(fields: dict[str, object], status: int, kind: str) -> None:
    """An error inside a 200 has the status that its number says, or else the one that its code or type names."""
    problem = said("m", 200, **fields)
    assert (problem.status, problem.type) == (status, kind)


def test_real_status_counts() -> None:
    """The status of the HTTP answer is above every word in it."""
    assert said("m", 400, type="rate_limit_error").status == 400
    assert said("m", 429, code="invalid_request_error", status=500).status == 429


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("max_tokens must be at least 1, got -7232", BARE),
        ("max_tokens must be at least 1, got -5.", BARE),
        ("max_completion_tokens must be at least 1, got 0.", BARE),
        (PASSED.format(32769), exceeding(32769, 32768)),
        (CONTAINS.format(40961, 168961), exceeding(40961, 40960)),
        ("Context size has been exceeded.", BARE),
        ("Your request exceeded model token limit: 131072 (requested: 150000)", exceeding(150000, 131072)),
        ("The number of tokens to keep is greater than the context length", BARE),
        ("The input is longer than the model's context length", BARE),
        ("The input (41000 tokens) is longer than the model's context length (40960 tokens).", exceeding(41000, 40960)),
        ("The prompt is longer than the maximum model length", BARE),
        (
            "The decoder prompt (length 41000) is longer than the maximum model length of 40960.",
            exceeding(41000, 40960),
        ),
        ("Prompt exceeds max length", BARE),
        ("Input is too long for requested model.", BARE),
        (
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            exceeding(1200000, 1048576),
        ),
        ("prompt is too long: 210000 tokens > 200000 maximum", exceeding(210000, 200000)),
        ("This model's maximum context length is 8192 tokens. However, you requested 9000 tokens.", BARE),
        (OPENROUTER_SUM.format(180000, 140000), exceeding(160000, 131072)),
        (FUNCTIONS_SUM.format(11000, 9000), exceeding(9500, 8192)),
        (VLLM_SUM.format(41000, 41000), exceeding(41000, 40960)),
        (SGLANG_SUM.format(169000, 41000), exceeding(41000, 40960)),
    ],
)
def test_overflow(words: str, wanted: str, status: int) -> None:
    """Every server's overflow starts a compaction, with the prompt's own count where prompt and window are told."""
    problem = said(words, status)
    assert problem.message == wanted
    assert (problem.status, problem.type) == (400, "invalid_request_error")


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (OPENROUTER_SUM.format(140000, 100000), sum_exceeding(120000, 20000, 131072)),
        (FUNCTIONS_SUM.format(9000, 7000), sum_exceeding(7500, 1500, 8192)),
        (VLLM_SUM.format(15000, 15000), sum_exceeding(15000, 128000, 40960)),
        (SGLANG_SUM.format(143000, 15000), sum_exceeding(15000, 128000, 40960)),
        (PASSED.format(32000), sum_exceeding(32000, 1000, 32768)),
        (CONTAINS.format(15000, 143000), sum_exceeding(15000, 128000, 40960)),
    ],
)
def test_only_the_answer_is_too_long(words: str, wanted: str, status: int) -> None:
    """If the prompt alone fits, the client is told to ask for a shorter answer, not to compact."""
    assert said(words, status).message == wanted


def test_overflow_in_the_providers_own_words() -> None:
    """The numbers are also found in the provider's error that OpenRouter wraps, and the word in its error_type."""
    raw = json.dumps({"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}})
    assert said("Provider returned error", metadata={"raw": raw}).message == exceeding(210000, 200000)
    assert said("no", metadata={"error_type": "context_length_exceeded"}).message == BARE


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize(
    "words",
    [
        "JSON schema error: no such keyword",
        "JSON schema conversion failed: Unrecognized schema",
        "Unable to generate parser for this template",
        "Unrecognized type: custom",
        "this model does not support images",
        "image input is not supported",
        "Conversation roles must alternate user/assistant",
        "Cannot have 2 or more assistant messages at the end of the list.",
    ],
)
def test_permanent(words: str, status: int) -> None:
    """What no repetition mends is the request's fault, though a server calls it its own."""
    problem = said(words, status)
    assert (problem.status, problem.type, problem.should_retry) == (400, "invalid_request_error", False)
    assert words in problem.message


def test_no_endpoint_for_images() -> None:
    """A 404 because of an image is no word on the model; any other stays."""
    assert said("No endpoints found that support image input", 404).status == 400
    assert said("No endpoints found", 404).status == 404


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("model 'qwen3:8b' not found, try pulling it first", "qwen3:8b"),
        ("The model `gpt-9` does not exist or you do not have access to it.", "gpt-9"),
        ('Model "a/b" was not found', "a/b"),
        ("vendor/model-9 is not a valid model ID", "vendor/model-9"),
    ],
)
def test_unknown_model(words: str, name: str) -> None:
    """A model that is not there is named first, as the API itself does (PROTOCOL 3.2)."""
    problem = said(words, 404)
    assert problem.type == "not_found_error"
    assert problem.message.startswith(f"model: {name} (")
    assert words in problem.message


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"fault": {"why": "left"}}, '{"fault":{"why":"left"}}'),
        ({"error": {"error_msg": "left"}}, "left"),
        ({"errors": [{"description": "left"}, {"title": "right"}]}, "left; right"),
        ([7], "[7]"),
        ({"x": "y" * 900}, '{"x":"' + "y" * 194),
        ({}, "an empty answer with status 500"),
        (None, "an empty answer with status 500"),
    ],
)
def test_any_shape(value: object, words: str) -> None:
    """An error of a shape that nobody knows is shown as it is, in part (row 76)."""
    assert problem_from_error("box", value, 500).message == f"Backend box: {words}"


@pytest.mark.parametrize("metadata", [{"reasons": ["violence"]}, {"flagged_input": "..."}])
def test_moderation(metadata: dict[str, object]) -> None:
    """What a provider's moderation refuses is an invalid request, since no permission would help."""
    for problem in (said("flagged", 403, metadata=metadata), said("flagged", 200, code=403, metadata=metadata)):
        assert (problem.status, problem.type, problem.should_retry) == (400, "invalid_request_error", False)


def test_no_moderation() -> None:
    """Any other 403 stays what it is."""
    assert said("no", 403, metadata={"provider_name": "p"}).type == "permission_error"
    assert said("no", 403, metadata="reasons").type == "permission_error"


@pytest.mark.parametrize(
    "text",
    [
        "<" * 100_000,
        "<script " * 10_000,
        "<script <style <title " * 5_000,
        "<script>" + "</" * 50_000,
        "maximum context length is 1 tokens requested " * 3_000,
        "maximum context length is 1 tokens requested 1 (" * 3_000,
        "passed 1 input tokens " * 5_000,
        "limit of 1 tokens" * 5_000,
        "model '" * 15_000,
        "1," * 50_000,
    ],
    ids=lambda text: text[:24],
)
def test_hostile(text: str) -> None:
    """No text makes the proxy stand still: it is one process for all its callers."""
    for value in ({"error": {"message": text, "code": text, "type": text}}, text):
        started = perf_counter()
        problem_from_error("box", value, 404)
        problem_from_error("box", value, 200)
        assert (perf_counter() - started) / 2 < 0.05


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        ("<title>Oops</title><style>a > b {}</style><h1>no</h1>luck", "Backend box: no luck"),
        ("<SCRIPT src=x>if (a < b) {}</script >no luck", "Backend box: no luck"),
        ("<script>if (a < b) { '<i>' }</script>no luck", "Backend box: no luck"),
        ("<script>left open, no luck", "Backend box: left open, no luck"),
    ],
)
def test_markup(page: str, wanted: str) -> None:
    """Markup is taken out, with what stands in scripts, styles and titles that are closed."""
    assert problem_from_error("box", page, 400).message == wanted
