"""``python -m claudeproxy units``: the units for systemd, with this installation's twistd in them."""

import shutil
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, TextIO

from twisted.python.usage import UsageError

from claudeproxy.service import commands

#: What the units are printed with where nothing else is put in its place.
PLACEHOLDER = "/opt/claudeproxy/bin/twistd"
UNITS = ("claudeproxy.service", "claudeproxy.socket")
#: Where systemd looks for an administrator's own units.
FOLDER = "/etc/systemd/system"


class Command(commands.Command):
    """Prints both units, or writes them. What they say of the daemon is the same for every installation."""

    synopsis = "Usage: python -m claudeproxy units [--prefix=FOLDER] [--into=FOLDER]"
    optParameters: ClassVar[list[list[Any]]] = [
        ["prefix", None, None, "The virtual environment to run; without it the one that this command runs in."],
        ["into", None, None, f"A folder to write the two files into, such as {FOLDER}; without it they are printed."],
    ]

    def parseArgs(self, *surplus: str) -> None:
        if surplus:
            raise UsageError(f"units: nothing is expected after the options, found {surplus[0]!r}")

    def run(self, out: TextIO, err: TextIO) -> int:
        prefix = self["prefix"]
        twistd = (Path(prefix) / "bin" if prefix else Path(sys.executable).parent) / "twistd"
        if not prefix and not twistd.is_file():
            twistd = Path(shutil.which("twistd") or twistd)
        if not twistd.is_file():
            err.write(f"claudeproxy: {twistd}: there is no such program; --prefix is the folder above its bin\n")
            return commands.FAILED
        units = {name: unit(name, str(twistd.absolute())) for name in UNITS}
        try:
            for name, text in units.items():
                if self["into"]:
                    path = Path(self["into"]) / name
                    path.write_text(text, encoding="utf-8")
                    out.write(f"{path}\n")
                else:
                    out.write(f"# {FOLDER}/{name}\n{text}\n")
        except OSError as fault:
            err.write(f"claudeproxy: {fault.filename}: cannot be written: {fault.strerror}\n")
            return commands.FAILED
        return commands.DONE


def unit(name: str, twistd: str) -> str:
    """The unit of this name, for this twistd."""
    text = (files("claudeproxy.service") / "units" / name).read_text(encoding="utf-8")
    # Systemd takes a per cent sign for a word of its own.
    return text.replace(PLACEHOLDER, twistd.replace("%", "%%"))
