"""Which rule of the API a path fits: a closed list, fit for the labels of a metric."""

import re
from collections.abc import Mapping, Sequence

from attrs import field
from klein import Klein

from claudeproxy.model.kinds import frozen

UNMATCHED = "unmatched"
#: All that is below this path is one route to those who count.
ADMIN = "/admin"
MESSAGES = "/v1/messages"
#: Asked for by monitors and by clients that warm up: needs no key, and says nothing of the proxy's work.
SIGNS_OF_LIFE = frozenset({"/health", "/health/ready", "/", "/api/hello"})
#: These and what operators look at would only push others out of the recorder, and fill traces.
UNWORTHY = SIGNS_OF_LIFE | {"/metrics", ADMIN}
_VARIABLE = re.compile(r"<.*?>")


def shown(rule: str) -> str:
    """A rule of the router as the README writes it."""
    return _VARIABLE.sub("{id}", rule)


@frozen
class Rules:
    """The rules of a router whose variables stand at the ends of its paths."""

    #: Those without a variable.
    _whole: Mapping[str, str]
    #: What stands before the variable, the longest first.
    _beginnings: Sequence[tuple[str, str]] = field(factory=list)

    @classmethod
    def of(cls, app: Klein) -> "Rules":
        """Those of the app's router, such as ``/v1/models/<path:name>``."""
        rules = [rule.rule for rule in app.url_map.iter_rules()]
        whole = {rule: rule for rule in rules if "<" not in rule}
        others = [(rule.partition("<")[0], shown(rule)) for rule in rules if rule not in whole]
        return cls(whole, sorted(others, key=lambda each: -len(each[0])))

    def rule(self, path: str) -> str:
        """The rule that ``path`` fits, or `UNMATCHED`. Slashes at its end do not matter."""
        path = path.rstrip("/") or "/"
        found = self._whole.get(path)
        if found is not None:
            return found
        for beginning, rule in self._beginnings:
            if path.startswith(beginning) and len(path) > len(beginning):
                return rule
        return UNMATCHED
