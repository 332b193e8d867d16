"""How fast a large result leaves the server: rows of profiles as an Arrow stream over HTTP.

    python benchmarks/sql_stream.py [--rows 2000000] [--rounds 3]

The query runs as in production: a client on loopback, the process in front, the process that reads the
lake, a jailed worker. It is compared with DuckDB reading the same files into Arrow in this process. The
ratio of the best rounds is what to watch; CPU seconds are of all processes together, and hold on a
machine that does other work too.
"""

import argparse
import asyncio
import http.client
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
from starlette.applications import Starlette

from _machine import machine
from profilelake.app.directory import WORKSPACE
from profilelake.app.query_process import sql_answers
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.reading import attach
from profilelake.lake.tables import Column, TableDef
from profilelake.manage.query_app import query_application
from profilelake.manage.sql import SqlDoor
from profilelake.ops import http as server
from profilelake.ops.clock import wall
from profilelake.ops.forward import Forward, listen
from profilelake.settings import Layout, Settings
from profilelake.workspaces.control import Control
from profilelake.workspaces.keyring import KeyRing

SEED: Final = 0.4711
COMMITS: Final = 8
QUERY: Final = "SELECT * FROM people"
START_SECONDS: Final = 120

PEOPLE: Final = TableDef(
    name="people",
    columns=(
        Column("profile_id", pa.string(), "profile", required=True),
        Column("collection", pa.string(), "users or accounts"),
        Column("email", pa.string(), "address", personal=True),
        Column("first_seen_at", pa.timestamp("us", "UTC"), "when"),
        Column("last_seen_at", pa.timestamp("us", "UTC"), "when"),
        Column("events", pa.int64(), "how many"),
        Column("merges", pa.int64(), "how many"),
        Column("traits", pa.string(), "traits as JSON", personal=True),
    ),
    doc="Profiles of the benchmark.",
)


def make(layout: Layout, rows: int) -> None:
    """Write the table in a few commits, as a server would have."""
    layout.create()
    with Control.open(layout.control, os.urandom) as control:
        control.ensure_default(now=wall(), admin_token="adm_bench", read_token="rk_bench")
    lake = Lake.of(layout)
    table = lake.table(WORKSPACE, PEOPLE)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone='UTC'")
        connection.execute("SELECT setseed(?)", [SEED]).fetchall()
        for commit in range(COMMITS):
            relation = connection.sql(
                """
                SELECT 'use_' || substr(md5(i::VARCHAR), 1, 26) AS profile_id, 'users' AS collection,
                    'person' || i || '@example.org' AS email,
                    TIMESTAMPTZ '2025-01-01 00:00:00+00' + to_seconds((random() * 2e7)::BIGINT) AS first_seen_at,
                    TIMESTAMPTZ '2025-09-01 00:00:00+00' + to_seconds((random() * 2e7)::BIGINT) AS last_seen_at,
                    (random() * 100)::BIGINT AS events, (random() * 3)::BIGINT AS merges,
                    '{"plan":"' || ['free', 'pro', 'team'][1 + i % 3] || '","city":"town' || (i * 7 % 5000)
                        || '","score":' || (random() * 1000)::BIGINT || '}' AS traits
                FROM range($begin, $end) t(i)
                """,
                params={"begin": rows * commit // COMMITS, "end": rows * (commit + 1) // COMMITS},
            )
            table.append(PEOPLE.shape(relation.to_arrow_table()), Progress("e1", commit + 1))


def behind(directory: Path) -> None:
    """Be the process that reads the lake."""
    layout = Layout(directory)
    sql = sql_answers(Settings(directory), layout)

    async def main() -> None:
        sql.jobs.start()
        app = query_application(sql.routes())
        await server.serve_app(
            app, listen(layout.query_socket), server.HttpLimits(), stop=asyncio.Event(), on_ready=_ready
        )

    server.run(main())


def front(directory: Path, port: int) -> None:
    """Be a process in front."""
    layout = Layout(directory)
    door = SqlDoor(KeyRing(layout.control), WORKSPACE, wall, Forward(layout.query_socket), lambda *_: 0)

    async def main() -> None:
        sock = server.bind("127.0.0.1", port)
        app = Starlette(routes=door.routes())
        await server.serve_app(app, sock, server.HttpLimits(), stop=asyncio.Event(), on_ready=_ready)

    server.run(main())


def _ready() -> None:
    print("ready", flush=True)


def in_process(layout: Layout) -> int:
    """Read everything with DuckDB into Arrow, here."""
    with duckdb.connect() as connection:
        attach(connection, Lake.of(layout), WORKSPACE)
        rows: int = connection.sql(QUERY).to_arrow_table().num_rows
        return rows


def over_http(port: int, token: str) -> Callable[[], int]:
    """Return what reads everything from the server, batch by batch."""

    def read() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Accept": "application/vnd.apache.arrow.stream",
        }
        connection.request("POST", "/api/sql", json.dumps({"query": QUERY}), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise SystemExit(answer.read().decode())
        with pa.ipc.open_stream(answer) as stream:
            rows: int = sum(batch.num_rows for batch in stream)
        connection.close()
        return rows

    return read


def main() -> None:
    """Make the data, start the processes, measure in turns."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(machine().line())
    with tempfile.TemporaryDirectory() as place:
        layout = Layout(Path(place) / "data")
        make(layout, options.rows)
        layout.query_socket.parent.mkdir(exist_ok=True)
        port = _free_port()
        processes = [_start("behind", place), _start("front", place, str(port))]
        try:
            measure(layout, port, options.rows, options.rounds, processes)
        finally:
            for process in processes:
                process.terminate()
                process.wait()


def measure(
    layout: Layout, port: int, rows: int, rounds: int, processes: list["subprocess.Popen[str]"]
) -> None:
    """Take turns, and print what each way took."""
    ways: dict[str, Callable[[], int]] = {
        "DuckDB to Arrow in process": lambda: in_process(layout),
        "Arrow stream over HTTP": over_http(port, "adm_bench"),
    }
    with duckdb.connect() as connection:
        attach(connection, Lake.of(layout), WORKSPACE)
        megabytes = connection.sql(QUERY).to_arrow_table().nbytes / 1e6
    best: dict[str, tuple[float, float]] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            cpu, began = _cpu(processes), time.monotonic()
            if way() != rows:
                raise SystemExit(f"{name}: rows are missing")
            took = time.monotonic() - began, _cpu(processes) - cpu
            best[name] = min(best.get(name, took), took)
    for name, (seconds, cpu) in best.items():
        print(
            f"{name:28} {rows / seconds / 1e6:6.2f} M rows/s {megabytes / seconds:7.0f} MB/s  "
            f"{cpu:.2f} CPU s ({cpu / rows * 1e6:.2f} per M rows)"
        )
    (base, base_cpu), (ours, ours_cpu) = best.values()
    print(
        f"ratio of throughput {base / ours:.2f}, of CPU {base_cpu / ours_cpu:.2f}; {megabytes:.0f} MB of Arrow"
    )


def _cpu(processes: list["subprocess.Popen[str]"]) -> float:
    """Return the CPU seconds of this process and of the server's, their ended workers included."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    total = usage.ru_utime + usage.ru_stime
    waiting = [process.pid for process in processes]
    while waiting:
        pid = waiting.pop()
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")
            waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return total


def _start(part: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, part, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if process.stdout is None or process.stdout.readline().strip() != "ready":
        raise SystemExit(f"{part} does not start")
    return process


def _free_port() -> int:
    with server.bind("127.0.0.1", 0) as sock:
        port: int = sock.getsockname()[1]
        return port


if __name__ == "__main__":
    if sys.argv[1:2] == ["behind"]:
        behind(Path(sys.argv[2]) / "data")
    elif sys.argv[1:2] == ["front"]:
        front(Path(sys.argv[2]) / "data", int(sys.argv[3]))
    else:
        main()
