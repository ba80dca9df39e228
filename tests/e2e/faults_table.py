"""
The README's table of faults, made by doing them: `python -m tests.e2e.faults_table [TIMES]`.

With `--write` in front it is put into the README, in the place of the one that is there.
"""

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.e2e.daemon import ROOT
from tests.e2e.homes import many
from tests.e2e.scene import scene

HEAD = "| What goes wrong | What its client sees | Times |\n| --- | --- | --- |\n"


def main(arguments: list[str]) -> None:
    write = "--write" in arguments
    times = int(next((each for each in arguments if each.isdigit()), "40"))
    rows, done_in_all = [], 0
    with TemporaryDirectory() as folder, scene(Path(folder) / "daemon") as place:
        before = place.memory()
        for fault, done in many(place, times):
            count = done.times * fault.each
            done_in_all += count
            rows.append(f"| {fault.name} | {fault.seen} | {count:,} |\n")
            print(rows[-1], end="", file=sys.stderr, flush=True)
        grown = (place.memory() - before) / 2**20
    print(f"{done_in_all:,} times in all, memory {grown:+.1f} MiB from the first request on", file=sys.stderr)
    table = HEAD + "".join(rows)
    if not write:
        print(table, end="")
        return
    readme = ROOT / "README.md"
    text, count = re.subn(re.escape(HEAD) + r"(?:\|.*\|\n)*", lambda _: table, readme.read_text(encoding="utf-8"))
    assert count == 1, "the README has no such table"
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
