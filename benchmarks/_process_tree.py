"""What a command takes with all the processes it starts: processor seconds and memory, JVM and workers included."""

import os
import threading
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_LOOK_SECONDS: Final = 1.0


def cpu_seconds(root: int) -> float:
    """Return the processor seconds of a process and its descendants, those that ended included."""
    return sum(sum(map(int, fields[11:15])) for fields in _tree(root).values()) / _TICKS


class Memory:
    """Looks at the memory of a process and its descendants: the greatest sum, shared pages counted once."""

    def __init__(self, root: int) -> None:
        self.peak_bytes = 0
        self.peak_python_bytes = 0
        """The greatest single Python process below the first."""
        self._root = root
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            found = {pid: _proportional(pid) for pid in _tree(self._root)}
            self.peak_bytes = max(self.peak_bytes, sum(found.values()))
            workers = [size for pid, size in found.items() if pid != self._root and _is_python(pid)]
            self.peak_python_bytes = max(self.peak_python_bytes, *workers, 0)


def _tree(root: int) -> dict[int, list[str]]:
    """Return the fields of /proc/pid/stat after the name, of a process and all below it."""
    stats: dict[int, list[str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except OSError:
                continue
            stats[int(entry.name)] = text.rpartition(")")[2].split()
    found = {root: stats[root]} if root in stats else {}
    below = [root]
    while below:
        parents, below = set(below), []
        for pid, fields in stats.items():
            if int(fields[1]) in parents and pid not in found:
                found[pid] = fields
                below.append(pid)
    return found


def _proportional(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            # Pages of mapped files can be given back at any time, so they are not counted.
            if line.startswith("Pss_Anon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _is_python(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("python")
    except OSError:
        return False
