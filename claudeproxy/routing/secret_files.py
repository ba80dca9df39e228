"""Files that hold secrets in the stead of settings: what is in them, and who may read them. Pure."""

from __future__ import annotations

from typing import Any

from attrs import AttrsInstance

from claudeproxy.model.kinds import define
from claudeproxy.routing.declarations import Declaration, declarations
from claudeproxy.routing.expectations import Secret, Unfit
from claudeproxy.routing.findings import Findings
from claudeproxy.routing.keys import keys_in, shows_keys

#: The settings whose keys may be hashes, which nobody can show.
CLIENT_KEYS = frozenset({"keys", "admin_keys"})
#: The setting that names a file -> the one whose value is in it.
_INSTEAD_OF = {"keys_file": "keys", "api_key_file": "api_key"}


@define
class SecretFindings(Findings):
    """What was learnt of secrets."""

    def fill_in(self, holder: type[AttrsInstance], values: dict[str, Any], prefix: str) -> None:
        """Put what is in the files that ``values`` name into their place; the paths have served then."""
        known = {each.name: each for each in declarations(holder)}
        for name in known.keys() & _INSTEAD_OF.keys() & values.keys():
            path, target = values.pop(name), _INSTEAD_OF[name]
            if path:
                where = self.where[prefix + name]
                try:
                    values[target] = self._secret(known[target], path, values.get(target))
                except Unfit as unfit:
                    self.refuse(prefix + target, where, str(unfit))
                self.where.setdefault(prefix + target, where)

    def _secret(self, target: Declaration, path: str, given: Any) -> Any:
        if target.name == "keys":
            found = keys_in(self.sources.read_secrets(path))
            if not found:
                raise Unfit(f"a key in {path!r}, found none")
            return target.expects.read((*(given or ()), *found))
        if given:
            raise Unfit("only one of api_key and api_key_file")
        kept: Secret = target.expects.read(self.sources.read_secrets(path).rstrip("\r\n"))
        if not kept:
            raise Unfit(f"a key in {path!r}, found nothing")
        return kept

    def watch_over(self, declared: Declaration, name: str, value: object) -> None:
        """Refuse a secret in a settings file that others can read."""
        if self.sources.config_is_open and declared.expects.secret:
            if shows_keys(value) if declared.name in CLIENT_KEYS else value:
                fix = f"chmod 600 {self.sources.config_name}"
                self.refuse(name, self.in_file(name), f"is a secret that other users of this machine can read: {fix}")
