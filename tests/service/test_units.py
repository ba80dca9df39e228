"""The units for systemd, and the command that prints them (issue 6)."""

import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.settings import Settings
from claudeproxy.service.command_units import PLACEHOLDER, UNITS
from claudeproxy.service.commands import DONE, FAILED, MISUSED, main


def run(*arguments: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    return main(["units", *arguments], out, err), out.getvalue(), err.getvalue()


class UnitsTests(SynchronousTestCase):
    """``python -m claudeproxy units``."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "bin").mkdir()
        self.twistd = self.folder / "bin" / "twistd"
        self.twistd.write_text("#!/bin/sh\n")
        self.twistd.chmod(0o755)

    def test_own(self) -> None:
        """Without options both are printed, with the twistd beside the interpreter that runs."""
        status, said, complaint = run()
        self.assertEqual((status, complaint), (DONE, ""))
        for name in UNITS:
            self.assertIn(f"# /etc/systemd/system/{name}\n", said)
        self.assertNotIn(PLACEHOLDER, said)
        self.assertIn(f"ExecStart={Path(sys.executable).parent}/twistd -n --pidfile= claudeproxy", said)

    def test_written(self) -> None:
        """With --into they are written, with --prefix for another installation."""
        status, said, _ = run(f"--prefix={self.folder}", f"--into={self.folder}")
        self.assertEqual((status, said.splitlines()), (DONE, [str(self.folder / name) for name in UNITS]))
        self.assertIn(f"ExecStart={self.twistd} ", (self.folder / "claudeproxy.service").read_text())

    def test_wrong(self) -> None:
        """No such installation, no such folder, no such word: said in one line."""
        for arguments, status, word in (
            ([f"--prefix={self.folder}/no"], FAILED, "no/bin/twistd"),
            ([f"--prefix={self.folder}", f"--into={self.folder}/no"], FAILED, "cannot be written"),
            (["surplus"], MISUSED, "surplus"),
        ):
            found, said, complaint = run(*arguments)
            self.assertEqual((found, said), (status, ""))
            self.assertTrue(complaint.startswith("claudeproxy: ") and word in complaint, complaint)

    def test_they_fit_together(self) -> None:
        """The service listens on the very socket that the other unit opens, and has more time to stop than it takes."""
        _, said, _ = run(f"--prefix={self.folder}")
        (name,) = re.findall(r"^FileDescriptorName=(.*)$", said, re.MULTILINE)
        self.assertIn(f"--listen=systemd:domain=INET:name={name}\n", said)
        (longest,) = re.findall(r"^TimeoutStopSec=(\d+)$", said, re.MULTILINE)
        self.assertTrue(int(longest) > Settings().drain_ms / 1000 + 10)

    def test_systemd_takes_them(self) -> None:
        """Systemd's own check has nothing to say, where systemd is installed."""
        check = shutil.which("systemd-analyze")
        run(f"--prefix={self.folder}", f"--into={self.folder}")
        paths = [str(self.folder / name) for name in UNITS]
        self.assertTrue(all("[Unit]\n" in Path(path).read_text() for path in paths))
        if check is not None:
            done = subprocess.run(
                [check, "verify", "--man=no", *paths],
                capture_output=True,
                text=True,
                env={"SYSTEMD_UNIT_PATH": f"{self.folder}:"},
            )
            self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))
