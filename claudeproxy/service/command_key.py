"""``python -m claudeproxy key``: a new key for a client, and the line of the settings that lets it in."""

import json
import secrets
from typing import Any, ClassVar, TextIO

from twisted.python.usage import UsageError

from claudeproxy.routing.expectations import Unfit
from claudeproxy.routing.keys import client_keys, key_of
from claudeproxy.service.commands import DONE
from claudeproxy.service.commands import Command as AnyCommand

#: In bytes: twice what nobody can guess.
_LENGTH = 32


class Command(AnyCommand):
    """Makes a key of 256 bits. It is shown this once: the settings hold its SHA-256 only."""

    synopsis = "[--name NAME] [--json]"
    longdesc = (
        "The first line is the key, for the client alone (ANTHROPIC_API_KEY). The second one is for the settings: for "
        "CLAUDEPROXY_KEYS, for keys = [...], or for a line of keys_file."
    )
    optParameters: ClassVar[list[list[Any]]] = [["name", "n", "", "Whose it is, for the log and the limits."]]
    optFlags: ClassVar[list[list[Any]]] = [["json", None, "Print one JSON object."]]

    def postOptions(self) -> None:
        name = self["name"]
        try:
            client_keys().read((f"{name}=plain:x" if name else "x",))
        except Unfit:
            raise UsageError(f"--name: expected letters, digits, '.', '_' and '-', found {name!r}") from None

    def run(self, out: TextIO, err: TextIO) -> int:
        text = f"cp-{secrets.token_urlsafe(_LENGTH)}"
        line = key_of(text, self["name"]).setting
        if self["json"]:
            out.write(json.dumps({"key": text, "name": self["name"], "setting": line}) + "\n")
            return DONE
        err.write("The key, shown this once; the client sends it, Claude Code as ANTHROPIC_API_KEY:\n")
        err.flush()
        out.write(f"{text}\n")
        out.flush()
        err.write("For the settings, as CLAUDEPROXY_KEYS, in keys = [...], or as a line of keys_file:\n")
        err.flush()
        out.write(f"{line}\n")
        return DONE
