"""What people may try in SQL: refused with a clear code, and harmless where nothing refuses it.

Each statement goes through the gate, and then without it straight into a jailed worker beside a file, a
table of somebody else and a listening port. Nothing of them may come out, change or be called, and the
worker ends within its limits.
"""

import asyncio
import hashlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from profilelake.ops.http import run
from profilelake.query import gate
from profilelake.query.failures import Failed, Failure
from profilelake.query.nursery import Nursery
from profilelake.query.worker import FILES_AT, Job, View

CASES = Path(__file__).parent / "sql_attacks"
CANARY = "canary-4711-in-clear"
SECONDS_MAX = 2.0
MEMORY_BYTES = 192 << 20
ROWS_MAX = 200_000
BYTES_MAX = 16 << 20
KNOWN = {"events"}
ATTACKS = [
    (path.stem, attack)
    for path in sorted(CASES.glob("*.yaml"))
    for attack in yaml.safe_load(path.read_text())["attacks"]
]


@dataclass(frozen=True)
class Surroundings:
    """What an attack may be after, and what it must leave as it was."""

    directory: Path
    listening: socket.socket
    handed: int

    def fill(self, attack: dict[str, Any]) -> str:
        if "nested" in attack:
            return "SELECT " + "(" * attack["nested"] + "1" + ")" * attack["nested"]
        if "added" in attack:
            return "SELECT " + "+".join(["1"] * attack["added"])
        if "subqueries" in attack:
            return "SELECT * FROM (" * attack["subqueries"] + "SELECT 1" + ")" * attack["subqueries"]  # noqa: S608
        query: str = attack["query"]
        places = {
            "dir": str(self.directory),
            "secret": str(self.directory / "secret.csv"),
            "parquet": str(self.directory / "other.parquet"),
            "link": str(self.directory / "link"),
            "handed": f"/proc/self/fd/{FILES_AT}",
            "url": f"http://127.0.0.1:{self.listening.getsockname()[1]}",
            "brackets": "[" * 20_000,
        }
        for name, value in places.items():
            query = query.replace("{" + name + "}", value)
        return query

    def state(self) -> dict[str, str]:
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.directory.rglob("*"))
            if path.is_file()
        }

    def called(self) -> bool:
        try:
            self.listening.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    directory = tmp_path_factory.mktemp("attacked")
    (directory / "secret.csv").write_text(f"secret,n\n{CANARY},1\n")
    (directory / "link").symlink_to(directory / "secret.csv")
    with duckdb.connect() as connection:
        for name, value in (("other", CANARY), ("events", "mine")):
            connection.execute(f"COPY (SELECT '{value}' AS secret, 1 AS id) TO '{directory}/{name}.parquet'")
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        (directory / "events.parquet").open("rb") as handed,
    ):
        listening.setblocking(False)
        yield Surroundings(directory, listening, handed.fileno())


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    started = Nursery()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PROFILELAKE_ADMIN_TOKEN", CANARY)
        started.start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def parser() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"errors_as_json": "true", "enable_external_access": "false"}) as connection:
        yield connection


def test_there_are_enough() -> None:
    assert len(ATTACKS) >= 60


@pytest.mark.parametrize(("area", "attack"), ATTACKS, ids=[str(n) for n in range(len(ATTACKS))])
def test_an_attack_is_refused_and_harmless(
    area: str,
    attack: dict[str, Any],
    surroundings: Surroundings,
    nursery: Nursery,
    parser: duckdb.DuckDBPyConnection,
) -> None:
    query = surroundings.fill(attack)
    if "refused" in attack:
        assert refusal(parser, query) == attack["refused"]
    before = surroundings.state()
    output, failure = run(unguarded(nursery, query, surroundings.handed))
    assert surroundings.state() == before
    assert CANARY.encode() not in output
    assert failure is None or CANARY not in failure.message
    assert not surroundings.called()
    if "ends" in attack:
        assert (failure.code if failure else "rows") in (*attack["ends"], "timeout"), failure
        # Whatever one query did, the next one starts.
        output, failure = run(unguarded(nursery, "SELECT secret FROM events", surroundings.handed))
        assert (output, failure) == (b'{"secret":"mine"}\n', None)


def refusal(parser: duckdb.DuckDBPyConnection, query: str) -> str:
    """Return how a query is refused before it runs, by the gate or because there is no such table."""
    try:
        checked = gate.check(parser, query)
    except Failed as error:
        return error.failure.code
    return "no table" if any(table.schema or table.name not in KNOWN for table in checked.tables) else "runs"


async def unguarded(nursery: Nursery, query: str, handed: int) -> tuple[bytes, Failure | None]:
    """Run a query past the gate and return what came of it."""
    job = Job(
        query,
        views=[View("", "events", f"SELECT * FROM read_parquet(['/proc/self/fd/{FILES_AT}'])")],  # noqa: S608
        format="ndjson",
        files=1,
        memory_bytes=MEMORY_BYTES,
        cpu_seconds=int(SECONDS_MAX) + 1,
        rows_max=ROWS_MAX,
        bytes_max=BYTES_MAX,
        gated=False,
    )
    running = await nursery.run(job, [handed])
    timer = asyncio.get_running_loop().call_later(
        SECONDS_MAX, running.end, Failure("timeout", "took too long")
    )
    output = b""
    try:
        await running.begin()
        async for piece in running.pieces():
            output += piece
    except Failed as error:
        return output, error.failure
    finally:
        timer.cancel()
        running.close()
    return output, None
