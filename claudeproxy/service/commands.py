"""The commands of ``python -m claudeproxy``: one row each, loaded when it is asked for."""

import json
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper
from typing import Any, ClassVar, TextIO

from twisted.python.usage import Options, UsageError

#: Name, module and summary. The module has a class `Command`, which says what it promises.
COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("check", "claudeproxy.service.command_check", "Checks the settings, and asks every backend what it is."),
    ("env", "claudeproxy.service.command_env", "Prints the variables that start Claude Code against the proxy."),
    ("why", "claudeproxy.service.command_why", "Tells why a request went as it did."),
    ("key", "claudeproxy.service.command_key", "Makes a key for a client."),
    ("units", "claudeproxy.service.command_units", "Prints the units for systemd."),
)

#: Exit statuses: done; what was asked is not so; the command line or the settings are wrong.
DONE, FAILED, MISUSED = 0, 1, 2


class VersionAsked(Exception):
    """Nothing else is to be done."""


class Command(Options):
    """One command: its options, as twistd's, and what it does."""

    #: What stands on ``out`` in the place of what was asked for, where that cannot be told.
    surrender: ClassVar[str] = ""

    def opt_version(self) -> None:
        """Display the version of claudeproxy and exit."""
        raise VersionAsked

    def run(self, out: TextIO, err: TextIO) -> int:
        """Does it, and gives the exit status. What is asked for goes to ``out``, what went wrong to ``err``.

        One that needs the reactor runs it itself."""
        raise AssertionError(f"{type(self).__name__} does nothing")


def _version() -> str:
    try:
        return version("claudeproxy")
    except PackageNotFoundError:  # a checkout that was not installed
        return "(not installed)"


def _late(module: str) -> Any:
    """The class of a command, without loading it for a list of commands."""
    return lambda: import_module(module).Command()


class CommandLine(Options):
    """Which command, and its options."""

    synopsis = "Usage: python -m claudeproxy COMMAND [options]"
    longdesc = "The daemon itself is run by twistd: twistd -n claudeproxy"
    subCommands: ClassVar[list[Any]] = [(name, None, _late(module), summary) for name, module, summary in COMMANDS]

    def opt_version(self) -> None:
        """Display the version of claudeproxy and exit."""
        raise VersionAsked

    def postOptions(self) -> None:
        if self.subCommand is None:
            raise UsageError(f"expected a command: {', '.join(name for name, *_ in COMMANDS)}")


def main(arguments: Sequence[str], out: TextIO = sys.stdout, err: TextIO = sys.stderr) -> int:
    """Runs one command; returns its exit status."""
    for each in (out, err):
        if isinstance(each, TextIOWrapper):
            each.reconfigure(errors="backslashreplace")  # rather a name spelt oddly than none, in whatever locale
    line = CommandLine()
    try:
        line.parseOptions(list(arguments))
    except VersionAsked:
        out.write(f"claudeproxy {_version()}\n")
        return DONE
    except UsageError as fault:
        surrender = getattr(getattr(line, "subOptions", None), "surrender", "")
        told = json.dumps({"faults": [str(fault)]}, indent=2) + "\n" if "--json" in arguments else ""
        out.write(surrender or told)
        err.write(f"claudeproxy: {fault}\n")
        return MISUSED
    command: Any = line.subOptions
    status: int | None = None
    try:
        status = command.run(out, err)
    finally:
        out.write(command.surrender if status is None else "")
    return status
