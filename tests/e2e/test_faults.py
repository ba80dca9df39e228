"""
Nothing brings the daemon down: faults in real sockets, one after the other, at one daemon. After each it answers as
ever, its log has nothing alarming, and as many files are open as before. After all of them it goes at once when it is
told to.

``pytest -m slow`` does each CLAUDEPROXY_FAULT_TIMES times (40), and looks at the memory as well.
"""

import os
from collections.abc import Iterator

import pytest

from tests.e2e.faults import Fault
from tests.e2e.homes import FAULTS, many
from tests.e2e.scene import Scene, scene


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene(tmp_path_factory.mktemp("faults") / "daemon") as found:
        yield found


def each() -> Iterator[object]:
    for fault in FAULTS:
        yield pytest.param(fault, id=fault.name, marks=[pytest.mark.model] * fault.model)


@pytest.mark.parametrize("fault", [*each()])
def test_fault(place: Scene, fault: Fault) -> None:
    """Once: the client sees what the README says, and the daemon goes on."""
    place.crowd = 300
    done = place.ordeal(fault.do, 1)
    assert done.times == 1


@pytest.mark.slow
@pytest.mark.model
def test_many(place: Scene) -> None:
    """Each of them many times: not one file and no memory stays behind."""
    for fault, done in many(place, int(os.environ.get("CLAUDEPROXY_FAULT_TIMES") or 40)):
        print(f"{fault.name}: {done}")
