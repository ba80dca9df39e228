"""The embedded model under the real reactor: it serves, is replaced when it dies, and ends with the service."""

import json
import os
import signal
from secrets import token_urlsafe

import pytest
import pytest_twisted  # type: ignore[import-untyped]
import treq
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorProcess, IReactorTime
from twisted.internet.task import deferLater
from twisted.web.http_headers import Headers

from claudeproxy.backends.embedded import Address, EmbeddedModel
from claudeproxy.backends.gguf import find_gguf

pytestmark = pytest.mark.model


async def model_ids(address: Address, key: str) -> tuple[int, list[str]]:
    url = f"http://{address.host}:{address.port}/v1/models"
    response = await treq.get(url, headers=Headers({"Authorization": [f"Bearer {key}"]}), persistent=False)
    body = json.loads(await response.content())
    return response.code, [model["id"] for model in body.get("data", [])]


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_a_life() -> None:
    """It serves under its alias; killed, it serves again under another key; stopped, its process is gone."""
    model = EmbeddedModel(
        find_gguf(), IReactorProcess(reactor), IReactorTime(reactor), lambda: token_urlsafe(32), window=2048
    )
    model.startService()
    try:
        first = await model.ready()
        assert first.window == 2048
        assert await model_ids(first, first.key) == (200, ["smollm2-135m-instruct"])
        os.kill(model.pid or 0, signal.SIGKILL)
        while (second := await model.ready()) == first:
            await deferLater(IReactorTime(reactor), 0.01)
        assert await model_ids(second, second.key) == (200, ["smollm2-135m-instruct"])
        assert (await model_ids(second, first.key))[0] == 401
        pid = model.pid or 0
    finally:
        stopped = model.stopService()
        assert stopped is not None
        await stopped
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
