"""What one read of a profile costs, beside the same server giving a constant of the same size.

Run `python benchmarks/profile_api.py [--profiles 100000] [--seconds 4]`. Needs `wrk`. One server
process on a loopback port, wrk on the other core. CPU time is read from /proc, so it does not depend
on what else the machine does; rates and latencies do.
"""

import argparse
import asyncio
import base64
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
from prometheus_client import CollectorRegistry

import _profiles
from _machine import machine
from _profiles import BEGIN, TRAITS_EACH, position
from profilelake.landing.tables import EVENTS
from profilelake.ops import http
from profilelake.semantics.rules import segment_defaults
from profilelake.serve.latest_state import LatestState
from profilelake.serve.profile_api import ProfileApi, request_ids
from profilelake.state import recent
from profilelake.state.store import State
from profilelake.workspaces.control import CONTROL_FILE, Control
from profilelake.workspaces.identifier_key import identifier_key
from profilelake.workspaces.keyring import KeyRing

SPACE: Final = "default"
TOKEN: Final = "rk_benchmark"
EVENTS_EACH: Final = 5
RUNS: Final = 20
LUA: Final = """
local count, seed = %d, %d
local threads = 0
function setup(thread) thread:set("number", threads); threads = threads + 1 end
function init(args) math.randomseed(seed + number) end
function request()
  return wrk.format("GET", string.format("%s", math.random(0, count - 1)), {Authorization = "Basic %s"})
end
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """One run of wrk."""

    per_second: float
    cpu_us: float
    p99_ms: float


def fill(directory: Path, profiles: int) -> None:
    """Write profiles and a few events of each."""
    with Control.open(directory / CONTROL_FILE, os.urandom) as control:
        control.ensure_default(now=BEGIN, read_token=TOKEN)
        control.bind_identifier_key(directory / "secrets")
    state = State.open(directory / "state", writable=True)
    sets = _profiles.fill(state, SPACE, identifier_key(directory / "secrets", SPACE), profiles)
    runs = [_run(directory, sets, number) for number in range(RUNS)]
    with state.write() as tx:
        recent.store(tx, SPACE, runs)
    state.close()


def _run(directory: Path, sets: list[bytes], number: int) -> recent.Run:
    """Write one of `RUNS` runs, which together hold `EVENTS_EACH` events of each set."""
    chosen = sorted(
        key
        for place, key in enumerate(sets)
        if place % RUNS in {(number + n) % RUNS for n in range(EVENTS_EACH)}
    )
    count = len(chosen)
    at = pa.array([BEGIN + number * 1_000_000 + n for n in range(count)], pa.timestamp("us", "UTC"))
    columns: dict[str, pa.Array] = {
        "key": pa.array(chosen, pa.binary(16)),
        "copy": pa.array([False] * count),
        "position": pa.array([position(number * 1_000_000 + n) for n in range(count)], pa.binary(32)),
        "received_at": at,
        "message_id": pa.array([f"{number}-{n}" for n in range(count)]),
        "type": pa.array(["track"] * count),
        "event": pa.array(["Product Viewed"] * count),
        "timestamp": at,
        "source_id": pa.array(["web"] * count),
        "context": pa.array([f'{{"locale":"en-GB","page":{{"path":"/p/{n % 500}"}}}}' for n in range(count)]),
        "properties": pa.array([f'{{"product_id":"p-{n % 500}","price":19.90}}' for n in range(count)]),
    }
    for field in EVENTS.schema():
        if field.name not in columns:
            columns[field.name] = pa.nulls(count, field.type)
    folder = directory / "recent" / SPACE
    return recent.write(folder, pa.table(columns), sequence_min=number, sequence_max=number)


def serve(directory: Path, constant_bytes: int) -> None:
    """Run the server of the benchmark until it is terminated."""
    keys = KeyRing(directory / CONTROL_FILE)
    keys.refresh()
    rules = segment_defaults()
    api = ProfileApi(
        LatestState(directory / "state"),
        lambda space: directory / "recent" / space,
        lambda space: identifier_key(directory / "secrets", space),
        keys,
        registry=CollectorRegistry(),
        request_id=request_ids(os.urandom(8)),
        now=lambda: time.time_ns() // 1_000,
        requests_per_second=None,
        rules=lambda _: rules,
    )
    constant = http.answer(200, [], b"x" * constant_bytes, b"application/json")

    async def app(scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        if scope["path"].startswith("/constant/"):
            await send(constant.start)
            await send(constant.body)
        else:
            await api(scope, receive, send)

    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        sock = http.bind("127.0.0.1", 0)
        port = sock.getsockname()[1]
        ready = lambda: print(port, flush=True)  # noqa: E731
        await http.serve_app(app, sock, http.HttpLimits(), stop=stop, on_ready=ready)

    http.run(main())


def measure(port: int, pid: int, path: str, *, profiles: int, seed: int, seconds: int) -> Figures:
    """Load one path, its `%d` a random profile, and return what it cost."""
    basic = base64.b64encode(f"{TOKEN}:".encode()).decode()
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(LUA % (profiles, seed, path, basic))
        script.flush()
        command = [
            "wrk",
            "-t1",
            "-c16",
            f"-d{seconds}s",
            "--latency",
            "-s",
            script.name,
            f"http://127.0.0.1:{port}",
        ]
        before = _cpu_seconds(pid)
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        used = _cpu_seconds(pid) - before
    requests = re.search(r"(\d+) requests in", said)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    slow = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    if not requests or not rate or not slow or "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"wrk on {path}:\n{said}")
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}[slow[2]]
    return Figures(float(rate[1]), used / int(requests[1]) * 1e6, float(slow[1]) * scale)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profiles", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, 450)
        return 0
    print(machine().line())
    with tempfile.TemporaryDirectory(prefix="profilelake-benchmark-") as name:
        directory = Path(name)
        began = time.perf_counter()
        fill(directory, options.profiles)
        print(
            f"{options.profiles} profiles of 3 identifiers, {TRAITS_EACH} traits and {EVENTS_EACH} events in"
            f" {RUNS} runs, written in {time.perf_counter() - began:.1f} s; seed {options.seed}"
        )
        command = [sys.executable, __file__, "--serve", name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                port = int(server.stdout.readline() if server.stdout else 0)
                os.sched_setaffinity(server.pid, {min(os.sched_getaffinity(0))})
                _report(port, server.pid, options.profiles, options.seed, options.seconds)
            finally:
                server.terminate()
    return 0


def _report(port: int, pid: int, profiles: int, seed: int, seconds: int) -> None:
    users = f"/v1/spaces/{SPACE}/collections/users/profiles/user_id:u%07d"
    paths = {
        "constant": "/constant/%d",
        "traits": f"{users}/traits",
        "traits verbose": f"{users}/traits?verbose=true",
        "traits include=plan": f"{users}/traits?include=plan",
        "external_ids": f"{users}/external_ids",
        "metadata": f"{users}/metadata",
        "events": f"{users}/events",
        "consent": f"{users}/consent",
        "list of 10, with traits": f"/v1/spaces/{SPACE}/collections/users/profiles?expand=traits&limit=10#%d",
        "constant again": "/constant/%d",
    }
    baseline = 0.0
    print(f"{'':<24}{'requests/s':>12}{'CPU us':>10}{'p99 ms':>10}{'ratio':>8}")
    for label, path in paths.items():
        measure(port, pid, path, profiles=profiles, seed=seed + 1, seconds=1)
        found = measure(port, pid, path, profiles=profiles, seed=seed, seconds=seconds)
        baseline = baseline or found.cpu_us
        print(
            f"{label:<24}{found.per_second:>12.0f}{found.cpu_us:>10.1f}{found.p99_ms:>10.2f}"
            f"{found.cpu_us / baseline:>8.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
