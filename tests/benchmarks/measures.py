"""What a process costs, told by the kernel: seconds of CPU, bytes of memory. Linux only."""

import re
from pathlib import Path


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    found, rest = [], [pid]
    while rest:
        found.append(each := rest.pop())
        for task in _tasks(each):
            rest += map(int, _read(task / "children").split())
    return found


def cpu(pid: int) -> float:
    """Seconds on a core so far, of a process and all that it started. The scheduler's own count, in nanoseconds."""
    spent = (_read(task / "schedstat").partition(" ")[0] for each in family(pid) for task in _tasks(each))
    return sum(int(each) for each in spent if each) / 1e9


def resident(pid: int) -> int:
    """Bytes of memory that are its own just now, of a process and all that it started."""
    sizes = (re.search(r"VmRSS:\s+(\d+) kB", _read(Path(f"/proc/{each}/status"))) for each in family(pid))
    return sum(int(found[1]) * 1024 for found in sizes if found)


def processor() -> str:
    """The machine's processor, in its maker's words."""
    found = re.search(r"^model name\s*:\s*(.+)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    return found[1].strip() if found else "unknown"


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except FileNotFoundError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it ended meanwhile
