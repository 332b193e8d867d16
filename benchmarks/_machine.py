"""Says on what machine a figure was taken: a number without its machine means nothing."""

import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

PACKAGES: Final = ("pyarrow", "duckdb", "numba", "numpy", "pyiceberg", "lmdb", "uvicorn", "msgspec")
PROBES: Final = 200
PROBE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Machine:
    """What a reader needs to judge a figure."""

    cores: int
    cpu: str
    memory_gib: float
    kernel: str
    python: str
    packages: dict[str, str]
    sync_p50_ms: float
    sync_p99_ms: float

    def line(self) -> str:
        """Return everything in one line of text."""
        packages = " ".join(f"{name} {version}" for name, version in self.packages.items())
        return (
            f"{self.cores} cores, {self.cpu}, {self.memory_gib:.0f} GiB, Linux {self.kernel}, Python {self.python}, "
            f"fdatasync p50 {self.sync_p50_ms:.2f} ms p99 {self.sync_p99_ms:.2f} ms; {packages}"
        )


def machine(directory: Path | None = None) -> Machine:
    """Describe this machine; the disk under `directory` (default: the one for temporary files) is probed."""
    p50, p99 = _sync_latency_ms(directory or Path(tempfile.gettempdir()))
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        cpu=_first(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        memory_gib=int((_first(Path("/proc/meminfo"), "MemTotal") or "0 kB").split()[0]) / 2**20,
        kernel=platform.release(),
        python=platform.python_version(),
        packages={name: importlib.metadata.version(name) for name in PACKAGES},
        sync_p50_ms=p50,
        sync_p99_ms=p99,
    )


def _first(path: Path, key: str) -> str | None:
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _sync_latency_ms(directory: Path) -> tuple[float, float]:
    """Append and sync small blocks, as a log does; return the median and the 99th percentile."""
    block = b"\0" * PROBE_BYTES
    times = []
    with tempfile.NamedTemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(PROBES):
            started = time.perf_counter()
            file.write(block)
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


if __name__ == "__main__":
    found = machine(Path(sys.argv[1]) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None)
    print(json.dumps(asdict(found)) if "--json" in sys.argv else found.line())
