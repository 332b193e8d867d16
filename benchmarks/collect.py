"""What one request to the tracking API costs: durable, and with a log that acknowledges at once.

Run `python benchmarks/collect.py [--seconds 4] [--fastapi-python PATH]`. Needs `wrk`. Each run starts one
server process on a loopback port and drives it with wrk on the other core; CPU time is read from /proc,
so it does not depend on what else the machine does. Rates do.

PATH is an interpreter that has `fastapi` and `uvicorn[standard]` besides what this project needs. With it
the batches are also sent to the same log behind FastAPI and pydantic (`_fastapi_app.py`), and the ratio of
CPU time is printed.
"""

import argparse
import asyncio
import gzip
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry

from profilelake.collect.limits import CollectLimits
from profilelake.collect.tracking import Appender, Tracking
from profilelake.eventlog import Entry
from profilelake.eventlog.embedded import Flushed, LogWriter
from profilelake.ops.http import HttpLimits, Message, Receive, Scope, Send, bind, run, serve_app
from profilelake.workspaces.control import CONTROL_FILE, Control
from profilelake.workspaces.keyring import KeyRing

WRITE_KEY = "wk_benchmark"
SOURCES: Final = Path(__file__).resolve().parents[1] / "src"
FASTAPI_APP: Final = Path(__file__).with_name("_fastapi_app.py")
FASTAPI_PATHS: Final = {"fastapi": "", "fastapi*": "/straight"}
"""How FastAPI is used: as its pages show it, and with pydantic reading the bytes itself."""
EVENT = {
    "type": "track",
    "userId": "u-1001",
    "anonymousId": "507f191e-810c-1972-9de8-60ea507f191e",
    "event": "Order Completed",
    "messageId": "node-next-1767225600000-5e2c2a48-8a53-4a7e-9d5b-8f1b6f0b7c11",
    "timestamp": "2026-03-01T10:00:00.000Z",
    "properties": {
        "order_id": "o-5",
        "revenue": 42.5,
        "currency": "EUR",
        "products": [{"product_id": "p-1", "price": 21.25, "quantity": 2}],
    },
    "context": {
        "library": {"name": "@segment/analytics-node", "version": "3.1.0"},
        "page": {"url": "https://shop.example.org/pricing", "title": "Pricing"},
        "locale": "en-GB",
        "userAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/120.0 Safari/537.36",
    },
}


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of request."""

    name: str
    path: str
    body: bytes
    events: int
    gzip: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """What one server did: a line for people, and the CPU time of one request in microseconds."""

    line: str
    cpu_us: float


def loads() -> list[Load]:
    """Return the requests that are measured: what browsers send, and what servers send."""
    single = json.dumps(EVENT).encode()
    items = [{**EVENT, "messageId": f"m-{number:032d}", "userId": f"u-{number}"} for number in range(20)]
    batch = json.dumps({"batch": items, "sentAt": "2026-03-01T10:00:05.000Z"}).encode()
    return [
        Load("single", "/v1/track", single, 1, gzip=False),
        Load("batch of 20, gzip", "/v1/batch", gzip.compress(batch), 20, gzip=True),
    ]


class AcknowledgesAtOnce:
    """The baseline: a log that keeps nothing, so all that is left is HTTP and checking."""

    trouble: str | None = None

    def append(self, entry: Entry) -> asyncio.Future[None]:  # noqa: ARG002 - it keeps nothing
        """Say that it is durable."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future


async def _constant(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
    """Answer without looking: what the server alone costs."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def _serve(directory: Path, log: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    flushes: list[Flushed] = []
    writer = None
    appender: Appender = AcknowledgesAtOnce()
    if log == "durable":
        writer = LogWriter(
            directory / "log", region="bench", clock=lambda: time.time_ns() // 1000, on_durable=flushes.append
        )
        appender = writer
    app = Tracking(appender, KeyRing(directory / CONTROL_FILE), CollectLimits(), CollectorRegistry())
    sock = bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    await serve_app(
        _constant if log == "none" else app,
        sock,
        HttpLimits(),
        stop=stop,
        on_ready=lambda: print(port, flush=True),
    )
    if writer is not None:
        writer.close()
    seconds = sorted(flush.sync_seconds for flush in flushes)
    records = sum(flush.records for flush in flushes)
    summary: Message = {"records": records, "syncs": len(seconds)}
    if seconds:
        summary["p50"] = seconds[len(seconds) // 2]
        summary["p99"] = seconds[len(seconds) * 99 // 100]
    print(json.dumps(summary), flush=True)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _measure(
    load: Load,
    log: str,
    command: list[str],
    seconds: int,
    connections: int,
    directory: Path,
    prefix: str = "",
) -> Measured:
    """Measure the server that `command` starts; `log` names it, `prefix` stands before its paths."""
    script = directory / "request.lua"
    (directory / "body").write_bytes(load.body)
    headers = [
        'wrk.headers["Content-Type"] = "application/json"',
        f'wrk.headers["Authorization"] = "{_basic()}"',
    ]
    if load.gzip:
        headers.append('wrk.headers["Content-Encoding"] = "gzip"')
    script.write_text(
        f'wrk.method = "POST"\nlocal file = io.open("{directory}/body", "rb")\nwrk.body = file:read("*a")\n'
        + "\n".join(headers)
    )
    server = subprocess.Popen(
        [*command, "--directory", str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )
    try:
        if server.stdout is None:
            raise RuntimeError("the server has no output")
        port = int(server.stdout.readline())
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(server.pid, {cores[0]})
        url = f"http://127.0.0.1:{port}{prefix}{load.path}"
        wrk = [
            "taskset",
            "-c",
            str(cores[-1]),
            "wrk",
            "-t1",
            f"-c{connections}",
            "--latency",
            "-s",
            str(script),
        ]
        subprocess.run([*wrk, "-d1s", url], check=True, capture_output=True)
        before = _cpu_seconds(server.pid)
        output = subprocess.run(
            [*wrk, f"-d{seconds}s", url], check=True, capture_output=True, text=True
        ).stdout
        cpu = _cpu_seconds(server.pid) - before
        server.send_signal(signal.SIGTERM)
        summary = json.loads(server.communicate(timeout=20)[0].splitlines()[-1])
    finally:
        server.kill()
        server.wait()
    requests = _figure(r"(\d+) requests in", output)
    latency = " ".join(re.findall(r"(?:50|99)%\s+(\S+)", output))
    failed = "Non-2xx" in output or "Socket errors" in output
    synced = (
        f", fdatasync p50 {summary['p50'] * 1e3:.2f} p99 {summary['p99'] * 1e3:.2f} ms"
        if summary["syncs"]
        else ""
    )
    line = (
        f"{load.name:18} {log:9} {cpu / requests * 1e6:6.1f} us CPU/request {cpu / requests / load.events * 1e6:6.2f} us/event"
        f" {requests / seconds:8.0f} requests/s, p50 p99 {latency}"
        f"{synced}{', FAILURES: ' + output if failed else ''}"
    )
    return Measured(line, cpu / requests * 1e6)


def _compare(
    load: Load, python: Path, ours: Measured, seconds: int, connections: int, directory: Path
) -> None:
    """Send the same bodies to FastAPI on the same log, and print how many times more they cost there."""
    for name, prefix in FASTAPI_PATHS.items():
        theirs = _measure(
            load, name, [str(python), str(FASTAPI_APP)], seconds, connections, directory, prefix
        )
        print(theirs.line, flush=True)
        print(
            f"{load.name:18} CPU of durable / {name}: {ours.cpu_us / theirs.cpu_us:.3f} (1/3 at most is asked)"
        )


def _figure(pattern: str, output: str) -> int:
    match = re.search(pattern, output)
    if match is None:
        raise RuntimeError(f"wrk printed something else: {output}")
    return int(match[1])


def _basic() -> str:
    return "Basic " + b64encode(f"{WRITE_KEY}:".encode()).decode()


def main() -> None:
    """Measure every load against every log."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=int, default=4)
    arguments.add_argument("--connections", type=int, default=64)
    arguments.add_argument(
        "--fastapi-python",
        type=Path,
        help="interpreter with fastapi, to compare with; it is not installed here",
    )
    arguments.add_argument("--serve", choices=("durable", "at-once", "none"), help=argparse.SUPPRESS)
    arguments.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.serve:
        run(_serve(chosen.directory, chosen.serve))
        return
    print(f"{platform.platform()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with Control.open(directory / CONTROL_FILE, os.urandom) as control:
            control.ensure_default(now=time.time_ns() // 1000, write_key=WRITE_KEY)
        for load in loads():
            print(f"{load.name}: body of {len(load.body)} bytes, {chosen.connections} connections")
            for log in ("none", "at-once", "durable"):
                command = [sys.executable, __file__, "--serve", log]
                measured = _measure(load, log, command, chosen.seconds, chosen.connections, directory)
                print(measured.line, flush=True)
            if load.path != "/v1/batch":
                continue
            if chosen.fastapi_python is None:
                print("the comparison with FastAPI and pydantic is left out: give --fastapi-python PATH")
            else:
                _compare(load, chosen.fastapi_python, measured, chosen.seconds, chosen.connections, directory)


if __name__ == "__main__":
    main()
