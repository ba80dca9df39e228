"""Every row of PROTOCOL 5 that a Chat Completions stream can show, from the corpus, through the stream machine.

Each script is fed whole, byte by byte and in random pieces; the judge of the stream knows nothing of the product.
"""

from collections.abc import Iterable, Iterator
from itertools import count

import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from claudeproxy.model.events import Event, Failed
from claudeproxy.model.problems import bad_gateway
from claudeproxy.translate.chat_request import to_chat
from claudeproxy.translate.chat_stream import ChatStream
from claudeproxy.translate.dialects import DIALECTS, Dialect
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.reply import Reply
from claudeproxy.wire.events import stream_bytes
from claudeproxy.wire.json import encode
from claudeproxy.wire.requests import parse_messages
from tests.fakes.cases import Case, load_cases
from tests.strategies import splits

CASES = [case for case in load_cases() if not case.transport]


def dialect_of(case: Case) -> Dialect:
    """The backend that the case supposes: one that nothing is known of, unless it says more."""
    needs = dict(case.needs)
    dialect = DIALECTS[needs.pop("dialect", "generic")]
    cells = {"starts_in_think": "starts_thinking", "no_done": "ends_without_done"}
    return evolve(dialect, **{cells.get(name, name): value for name, value in needs.items()})


def machine_for(case: Case) -> ChatStream:
    """The machine that the product would use for the case's request."""
    request = parse_messages(encode(dict(case.request))).request
    dialect = dialect_of(case)
    chat = to_chat(request, request.model, dialect)
    numbers = count(1)
    expected = Expected.of("fake", 10, dialect.num_ctx, request, chat, dialect)
    return ChatStream(Reply("msg_1", request.model), expected, lambda: f"u{next(numbers)}")


def replayed(case: Case, pieces: Iterable[bytes]) -> Iterator[Event]:
    """The events of the script, as the relay would cause them."""
    machine = machine_for(case)
    for piece in pieces:
        yield from machine.receive(piece)
        if machine.over:
            return
    if case.script.ending == "clean":
        yield from machine.close()
    elif machine.settled:
        yield from machine.close()
    else:
        yield from machine.fail(bad_gateway("Backend fake broke off its answer"))


def judge(case: Case, events: list[Event]) -> None:
    """A failure before the first event is answered by HTTP; everything else is a stream."""
    if len(events) == 1 and isinstance(events[0], Failed):
        problem = events[0].problem
        error = {"type": "error", "error": {"type": problem.type, "message": problem.message}, "request_id": "req_1"}
        headers = {} if problem.retry_after is None else {"retry-after": str(problem.retry_after)}
        if problem.should_retry is not None:
            headers["x-should-retry"] = str(problem.should_retry).lower()
        case.judge_error(problem.status, error, headers)
    else:
        case.judge_stream(stream_bytes(events))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_row_whole_and_byte_by_byte(case: Case) -> None:
    """A row of PROTOCOL 5 is answered as it demands, however its bytes arrive."""
    body = case.script.body_bytes()
    judge(case, list(replayed(case, [body])))
    judge(case, list(replayed(case, [body[at : at + 1] for at in range(min(len(body), 20_000))] + [body[20_000:]])))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_rows_in_random_pieces(data: st.DataObject) -> None:
    """No cut between two reads changes an answer."""
    case = data.draw(st.sampled_from([case for case in CASES if len(case.script.body_bytes()) < 20_000]))
    judge(case, list(replayed(case, data.draw(splits(case.script.body_bytes())))))
