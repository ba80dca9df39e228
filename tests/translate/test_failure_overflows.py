"""Overflows in the words of servers that are no OpenAI, and what is none (PROTOCOL 3.3)."""

import json
from time import perf_counter

import pytest

from claudeproxy.model.events import Failed
from claudeproxy.model.problems import Problem
from claudeproxy.translate.chat_stream import ChatStream
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.failures import is_bare_error, problem_from_error
from claudeproxy.translate.reply import Reply

BARE = "prompt is too long"
TGI = (
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. "
    "Given: {} `inputs` tokens and {} `max_new_tokens`"
)
ANTHROPIC_SUM = "input length and `max_tokens` exceed context limit: {} + {} > {}"
LEAST = ", decrease input length or `max_tokens` and try again"


def exceeding(prompt: int, window: int) -> str:
    return f"prompt is too long: {prompt} tokens > {window} maximum"


def said(words: str, answered: int, **fields: object) -> Problem:
    return problem_from_error("box", {"error": {"message": words, **fields}}, answered)


def streamed(body: str) -> Problem:
    """What a 200 with this body fails with."""
    machine = ChatStream(Reply("msg_1", "m"), Expected("box", 10), lambda: "u")
    (failed,) = [*machine.receive(body.encode()), *machine.close()]
    assert isinstance(failed, Failed)
    return failed.problem


WORDINGS = [
    (
        "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context "
        "length of only 4096 tokens, which is not enough. Try to load the model with a larger context length",
        exceeding(5000, 4096),
    ),
    ("Reached context length of 4096 tokens with model (arch: qwen2) that does not support more", BARE),
    (
        "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
        exceeding(140000, 131072),
    ),
    ("prompt token count of 140000 exceeds the limit of 128000", exceeding(140000, 128000)),
    ("prompt too long; exceeded max context length by 904 tokens", BARE),
    ("Input length (40000 tokens) exceeds the maximum allowed length (32768 tokens).", exceeding(40000, 32768)),
    (TGI.format(5000, 100), exceeding(5000, 4096)),
    ("Input validation error: `inputs` must have less than 1024 tokens. Given: 3000", exceeding(3000, 1024)),
    ("<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]", BARE),
    ("too many tokens: total tokens in the request (4292) exceeds limit of 4081 tokens", BARE),
    ("too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 4292", exceeding(4292, 4081)),
    ("too many tokens: size limit exceeded by 11326 tokens. Try using shorter or fewer inputs.", BARE),
    ("Prompt 超长", BARE),
    ("Input prompt is too big compared to KV size. Please try increasing KV size.", BARE),
    ("context shift is disabled", BARE),
    ("Prompt length exceeds context window (5000 tokens).", BARE),
    ("Requested tokens (5000) exceed context window of 4096", exceeding(5000, 4096)),
    ("input tokens (140000) exceeds model limit 131072", exceeding(140000, 131072)),
    ("The total number of tokens 5000 exceeds the model context length 4096", exceeding(5000, 4096)),
    ("input_ids length 40000 exceeds context length 32768", exceeding(40000, 32768)),
    (
        "Prompt contains 65673 tokens, too large for model with 32768 maximum context length",
        exceeding(65673, 32768),
    ),
    (
        "Prompt contains 65673 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
        exceeding(65673, 32768),
    ),
    ("The prompt is too long: 140000, model maximum context length: 131072", exceeding(140000, 131072)),
    (
        "The input is longer than the maximum context length of the model (40000 > 32768)",
        exceeding(40000, 32768),
    ),
    ("Prompt length (5000) exceeds maximum context length (4096)", exceeding(5000, 4096)),
    ("Context length exceeded: 5000 > 4096", exceeding(5000, 4096)),
    ("Cannot truncate prompt with n_keep (11378) >= n_ctx (4096)", exceeding(11378, 4096)),
    ("Cannot truncate prompt with n_keep", BARE),
    (
        "This model's maximum context length is 8192 tokens. However, your request has 9000 input tokens. Please "
        "reduce the length of the input messages.",
        exceeding(9000, 8192),
    ),
    (
        "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens in the messages, "
        "Please reduce the length of the messages.",
        exceeding(9000, 8192),
    ),
    ("Prompt length (9000) exceeds maximum input length (8192). Set log level to info", exceeding(9000, 8192)),
    (
        "Please reduce the length of the messages or completion. Current length is 9000 while limit is 8192",
        exceeding(9000, 8192),
    ),
    ("Prompt length 9000 is greater than max_seq_len 8192", exceeding(9000, 8192)),
    ("Context length 9000 is greater than max_seq_len 8192", exceeding(9000, 8192)),
    ("input (9000 tokens) is larger than the max context size (8192 tokens). skipping", exceeding(9000, 8192)),
    ("Prompt too long: 9000 tokens exceeds maximum context of 8192", exceeding(9000, 8192)),
    ("invalid params, context window exceeds limit (2013)", BARE),
]


@pytest.mark.parametrize("status", [200, 400, 422, 500])
@pytest.mark.parametrize(("words", "wanted"), WORDINGS)
def test_overflow(words: str, wanted: str, status: int) -> None:
    """Every server's overflow starts a compaction, in any case of letters, as a status and inside a stream."""
    for cased in (words, words.upper(), words.lower()):
        problem = said(cased, status)
        assert problem.message == wanted
        assert (problem.status, problem.type, problem.should_retry) == (400, "invalid_request_error", False)
    assert problem_from_error("box", {"error": words, "error_type": "validation"}, status).message == wanted


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("code", [1261, "1261", "model_max_prompt_tokens_exceeded"])
def test_code(code: object, status: int) -> None:
    """Some codes tell it by themselves, in whatever language the words are."""
    assert said("no", status, code=code).message == BARE
    problem = problem_from_error("box", {"code": code, "msg": "no", "success": False}, status)
    assert problem.message == BARE


@pytest.mark.parametrize("status", [200, 400, 500])
def test_only_the_answer_is_too_long(status: int) -> None:
    """A sum that is too much reaches the client in Anthropic's own words, and in no others."""
    words = ANTHROPIC_SUM.format(180000, 32000, 200000)
    for told in (words, words + LEAST, f"upstream: {words}{LEAST}"):
        assert said(told, status).message == words + LEAST
    assert said(ANTHROPIC_SUM.format(210000, 32000, 200000), status).message == exceeding(210000, 200000)
    assert said(TGI.format(4000, 100), status).message == ANTHROPIC_SUM.format(4000, 100, 4096) + LEAST


@pytest.mark.parametrize("status", [200, 400, 429, 500])
@pytest.mark.parametrize(
    "words",
    [
        "Rate limit reached: tokens per minute limit exceeded, limit 30000, requested 40000",
        "Number of request tokens has exceeded your per-minute rate limit",
        "input tokens (140000) exceeds your rate limit of 30000 tokens per minute",
        "too many tokens: your plan allows fewer",
        "max_tokens must be less than 8192",
        "max_tokens (9000) exceeds the maximum number of tokens allowed (8192)",
        "Requested max_tokens (9000) exceeds model limit 8192",
        "`max_tokens` is too large: 9000. The maximum output tokens of this model is 8192",
        "The maximum output tokens 65536 exceeds the limit of 8192",
        "Range of max_tokens should be [1, 8192]",
        "Request 1261 failed",
        "Current length is 9000 while limit is 8192",
        "max_tokens 9000 is greater than max_seq_len 8192",
        "The length of the key's name is 9000 while limit is 8192",
        "image exceeds the limit of 5242880 bytes",
    ],
)
def test_no_overflow(words: str, status: int) -> None:
    """Other refusals that speak of tokens and limits keep their words."""
    assert said(words, status).message == f"Backend box: {words}"


@pytest.mark.parametrize("wording", [words for words, _ in WORDINGS], ids=lambda words: words[:24])
def test_hostile(wording: str) -> None:
    """No wording takes long to be found missing, however often it almost begins."""
    for part in (wording[: len(wording) // 2], wording[:-3], wording + " "):
        text = (part * (100_000 // len(part)))[:100_000]
        started = perf_counter()
        said(text, 400)
        said(text, 200)
        assert (perf_counter() - started) / 2 < 0.05


def test_raw_object() -> None:
    """The provider's error that OpenRouter wraps is also found where it is no text."""
    for raw in (
        {"error": {"message": "no luck"}},
        [{"error": {"message": "no luck"}}],
        json.dumps({"detail": "no luck"}),
    ):
        assert said("Provider returned error", 400, metadata={"raw": raw}).message == "Backend box: no luck"
    assert said("Provider returned error", 400, metadata={"raw": {}}).message == "Backend box: Provider returned error"


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        ({"code": 500, "msg": "broken", "success": False}, 500, "broken"),
        ({"success": False, "msg": "invalid key", "code": 401}, 401, "invalid key"),
        ({"code": "429", "msg": "slow"}, 429, "slow"),
        ({"base_resp": {"status_code": 1004, "status_msg": "login fail"}}, 401, "login fail"),
        ({"id": "x", "choices": None, "base_resp": {"status_code": 1002, "status_msg": "slow"}}, 429, "slow"),
        ({"choices": [], "base_resp": {"status_code": 1008, "status_msg": "no money"}}, 402, "no money"),
        ({"base_resp": {"status_code": 1000, "status_msg": "unknown"}}, 502, "unknown"),
    ],
)
def test_bare_errors(value: dict[str, object], status: int, words: str) -> None:
    """Bodies of a 200 that have no ``error`` are one by their number, with their own words and status (row 76)."""
    assert is_bare_error(value)
    problem = problem_from_error("box", value, 200)
    assert (problem.status, problem.message) == (status, f"Backend box: {words}")


@pytest.mark.parametrize(
    "value",
    [
        {"base_resp": {"status_code": 0, "status_msg": ""}},
        {"choices": [{"delta": {}}], "base_resp": {"status_code": 0, "status_msg": ""}},
        {"code": 0, "msg": "success"},
        {"code": 200, "msg": "ok", "success": True},
        {"msg": "hello"},
        {"usage": {}},
        {"base_resp": {"status_code": "x"}},
        {"code": True, "msg": "m"},
    ],
)
def test_no_bare_error(value: dict[str, object]) -> None:
    """The same fields with the numbers of success are no error."""
    assert not is_bare_error(value)


def test_array() -> None:
    """An array has the status of the first error in it; words beside a text in ``error`` class it, too."""
    problem = problem_from_error(
        "box", [{"error": {"code": 400, "message": "no luck", "status": "INVALID_ARGUMENT"}}], 200
    )
    assert (problem.status, problem.message) == (400, "Backend box: no luck")
    assert problem_from_error("box", {"error": "bad key", "code": 401}, 200).status == 401
    assert problem_from_error("box", {"error": None, "msg": "bad key", "code": 401}, 200).status == 401


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize(
    "words",
    [
        "Failed to parse input at pos 12: <tool_call>",
        "Value is not callable: null at row 3, column 5",
        "Only user, assistant and tool roles are supported, got developer.",
    ],
)
def test_permanent(words: str, status: int) -> None:
    """What no repetition mends is the request's fault, though a server calls it its own."""
    problem = said(words, status)
    assert (problem.status, problem.should_retry) == (400, False)


def test_in_a_stream() -> None:
    """All of this is heard where a 200 was answered, too: as an event, as the only value, as an array."""
    for words, wanted in WORDINGS:
        for error in ({"error": {"message": words}}, {"error": words}, {"code": 400, "msg": words, "success": False}):
            assert streamed(f"data: {json.dumps(error)}\n\n").message == wanted
            assert streamed(json.dumps(error)).message == wanted
    for body in (
        '[{"error":{"code":400,"message":"no luck"}}]',
        '[{\n  "error": {"code": 400, "message": "no luck"}\n}]\n',
    ):
        problem = streamed(body)
        assert (problem.status, problem.message) == (400, "Backend box: no luck")
    problem = streamed('{"choices":null,"base_resp":{"status_code":1004,"status_msg":"login fail"}}')
    assert (problem.status, problem.message) == (401, "Backend box: login fail")
    assert streamed('data: {"success":false,"msg":"invalid key","code":401}\n\n').status == 401
