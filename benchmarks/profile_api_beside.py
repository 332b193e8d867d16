"""The Profile API of a whole server over very many profiles: alone, beside ingestion, from a cold cache.

    python benchmarks/profile_api_beside.py [--profiles 1000000] [--seconds 10]

Writes the profiles straight into the state, starts `profilelake serve` on it, and reads `/traits` of
random people with `wrk` (closed loop, so the rate is what the machine gives) while

- nothing else happens: the baseline of the ratios;
- events are acknowledged durably at a fixed rate, with their processing halted (SIGSTOP);
- events are acknowledged, processed and committed at a fixed rate.

Then the page cache gives the state's file back, and the server starts again. Both load generators run
on the same machine and cores. Needs `wrk`.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import _profiles
from _machine import machine
from load import Corpus, Mix
from pipeline import READ_TOKEN, WRITE_KEY, Server, start
from profilelake.settings import Layout
from profilelake.state.store import State
from profilelake.workspaces.identifier_key import identifier_key

SPACE: Final = "default"
PATH: Final = f"/v1/spaces/{SPACE}/collections/users/profiles/user_id:u%07d/traits"
LUA: Final = """
local count, seed = %d, %d
local threads = 0
function setup(thread) thread:set("number", threads); threads = threads + 1 end
function init(args) math.randomseed(seed + number) end
function request()
  return wrk.format("GET", string.format("%s", math.random(0, count - 1)), {Authorization = "Basic %s"})
end
"""
EVENT_PEOPLE: Final = 20_000
"""Whose events are sent; they are others than those that are read."""
_TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Reads:
    """What one run of wrk saw, and what the server's HTTP processes used meanwhile for each read."""

    per_second: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    worst_ms: float
    failed: str


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profiles", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--acknowledged", type=float, default=50_000, help="events/s, durable only")
    parser.add_argument("--processed", type=float, default=20_000, help="events/s, processed and committed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "profilelake-bench")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    print(machine(options.scratch).line())
    print({name: str(value) for name, value in vars(options).items() if name != "scratch"})
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        directory = Path(name) / "data"
        _fill(directory, options.profiles)
        run(directory, options)
    return 0


def _fill(directory: Path, profiles: int) -> None:
    start(directory).stop()  # makes the directory, its keys and its tables
    layout = Layout(directory)
    began = time.perf_counter()
    state = State.open(layout.state, writable=True)
    _profiles.fill(state, SPACE, identifier_key(layout.secrets, SPACE), profiles)
    each = state.bytes_used() / profiles
    state.close()
    print(
        f"{profiles:,} profiles of {len(_profiles.TYPES)} identifiers and {_profiles.TRAITS_EACH} traits,"
        f" {each:,.0f} bytes of state each, written in {time.perf_counter() - began:.0f} s"
    )


def run(directory: Path, options: argparse.Namespace) -> None:
    server = start(directory)
    try:
        print(
            f"{'':<26}{'reads/s':>10}{'ratio':>7}{'CPU us':>8}{'p50 ms':>8}{'p99 ms':>8}{'max ms':>8}  events/s"
        )
        _read(server, options, seconds=3)  # warms the cache

        alone = _read(server, options)
        _print("alone", alone, alone, "")
        for label, rate, halted in (
            ("beside acknowledging", options.acknowledged, True),
            ("beside processing", options.processed, False),
        ):
            with _sending(server, options, rate) as sent, _halted(server, halted=halted):
                found = _read(server, options)
            _print(label, found, alone, sent())
            began = time.perf_counter()
            status = server.committed()
            waited = time.perf_counter() - began
            print(f"{'':<26}all committed {waited:.1f} s later, balanced: {status['balanced']}")
    finally:
        server.stop()
    _forget(Layout(directory).state / "data.mdb")
    server = start(directory)
    try:
        cold = _read(server, options, seconds=2)
        _print("cold cache, first 2 s", cold, alone, "")
        _print("then", _read(server, options), alone, "")
    finally:
        server.stop()


def _print(label: str, found: Reads, baseline: Reads, events: str) -> None:
    print(
        f"{label:<26}{found.per_second:>10,.0f}{found.per_second / baseline.per_second:>7.2f}{found.cpu_us:>8.1f}"
        f"{found.p50_ms:>8.2f}{found.p99_ms:>8.2f}{found.worst_ms:>8.1f}  {events}{found.failed}"
    )


def _read(server: Server, options: argparse.Namespace, seconds: int | None = None) -> Reads:
    """Read random people for some seconds."""
    basic = b64encode(f"{READ_TOKEN}:".encode()).decode()
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(LUA % (options.profiles, options.seed, PATH, basic))
        script.flush()
        command = ["wrk", "-t1", f"-c{options.connections}", f"-d{seconds or options.seconds}s", "--latency"]
        before = _http_seconds(server)
        done = subprocess.run(
            [*command, "-s", script.name, server.url], check=True, capture_output=True, text=True
        )
        used = _http_seconds(server) - before
    said = done.stdout
    requests, rate = re.search(r"(\d+) requests in", said), re.search(r"Requests/sec:\s+([\d.]+)", said)
    latency = re.search(r"Latency\s+\S+\s+\S+\s+([\d.]+)(us|ms|s)", said)
    if not requests or not rate or not latency:
        raise SystemExit(f"wrk:\n{said}")
    failed = " ".join(
        line.strip() for line in said.splitlines() if "Non-2xx" in line or "Socket errors" in line
    )
    return Reads(
        float(rate[1]),
        used / int(requests[1]) * 1e6,
        _quantile(said, 50),
        _quantile(said, 99),
        _milliseconds(latency[1], latency[2]),
        failed,
    )


def _quantile(said: str, percent: int) -> float:
    found = re.search(rf"\b{percent}%\s+([\d.]+)(us|ms|s)", said)
    if not found:
        raise SystemExit(f"wrk:\n{said}")
    return _milliseconds(found[1], found[2])


def _milliseconds(number: str, unit: str) -> float:
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


@contextmanager
def _sending(server: Server, options: argparse.Namespace, rate: float) -> Any:
    """Send events at a fixed rate meanwhile, from a process of its own."""
    events = int(rate * (options.seconds + 4))
    mix = Mix(events=events, profiles=EVENT_PEOPLE, seed=options.seed)
    Corpus.load(mix, options.scratch)  # built before the clock starts
    command = [sys.executable, str(Path(__file__).with_name("load.py")), "--url", server.url]
    command += ["--write-key", WRITE_KEY, "--events", str(events), "--profiles", str(EVENT_PEOPLE)]
    command += ["--seed", str(options.seed), "--rate", str(rate), "--scratch", str(options.scratch)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as sender:
        result: list[str] = []

        def sent() -> str:
            load = json.loads(result[0])
            return (
                f"{load['events_per_second']:,.0f} (p99 {load['answer_ms']['p99']:.0f} ms) {load['statuses']}"
            )

        time.sleep(2)
        yield sent
        result.append(sender.communicate()[0])


@contextmanager
def _halted(server: Server, *, halted: bool) -> Any:
    """Halt the processes that process events meanwhile."""
    found = [pid for kind in ("pipeline", "lake") for pid in _pids(server, kind)] if halted else []
    for pid in found:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in found:
            os.kill(pid, signal.SIGCONT)


def _pids(server: Server, kind: str) -> list[int]:
    """Return the processes of one kind that this server has."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (path / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(server.directory).encode() in arguments and kind.encode() in arguments:
            found.append(int(path.name))
    return found


def _http_seconds(server: Server) -> float:
    used = 0.0
    for pid in _pids(server, "http"):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used += (int(fields[11]) + int(fields[12])) / _TICK
    return used


def _forget(path: Path) -> None:
    """Let the page cache give back a file that no process has mapped."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    sys.exit(main())
