"""What a worker is handed: files of the tables it names, and none of what its asker may not see."""

import asyncio
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pyarrow.parquet
import pytest

from lake_examples import MEMBERS, VISITS, members, open_lake, upto, visits
from profilelake.errors import Conflict, NotFound, Unavailable
from profilelake.lake import reading, sql
from profilelake.lake.catalog import Lake
from profilelake.ops.http import run
from profilelake.query.asking import Asked, Queries, QueryLimits, TooMany
from profilelake.query.failures import Failed
from profilelake.query.gate import Checked, TableNamed
from profilelake.query.inputs import ATTEMPTS_MAX, Inputs
from profilelake.query.jobs import Job, Jobs
from profilelake.query.nursery import Nursery
from profilelake.query.worker import FORKED, NOT_FORKED, message_of

WAIT_SECONDS = 30
TOKEN = "t"
ENDLESS = "SELECT count(*) FROM range(1000000000000) a, range(1000000) b"

_Result = TypeVar("_Result")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inputs]:
    folder = tmp_path_factory.mktemp("lake")
    lake = open_lake(folder)
    lake.table("w", VISITS).append(visits(0, 100), upto(1))
    lake.current_table("w", MEMBERS).base.append(members({"m1": 5, "m2": 6}), upto(1))
    lake.table("other", VISITS).append(visits(900, 1), upto(1))
    spool = folder / "spool"
    spool.mkdir()
    yield Inputs(lake, "w", spool)
    lake.close()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    started = Nursery()
    started.start()
    yield started
    started.stop()


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def named(*tables: str) -> Checked:
    return Checked([TableNamed("", table, None) for table in tables], all_tables=False)


def asked(query: str, *, masked: bool = False, seconds: float = 20, token: str = TOKEN, **more: Any) -> Asked:
    return Asked(query, more.get("parameters"), more.get("format", "ndjson"), seconds, token, masked)


def asking(
    inputs: Inputs, nursery: Nursery, use: Callable[[Queries], Awaitable[_Result]], **limits: Any
) -> _Result:
    async def main() -> _Result:
        return await use(Queries(inputs, nursery, QueryLimits(**limits)))

    return run(main())


def rows(inputs: Inputs, nursery: Nursery, question: Asked, **limits: Any) -> list[Any]:
    async def use(queries: Queries) -> list[Any]:
        async with queries.asked(question) as running:
            body = b"".join([piece async for piece in running.pieces()])
        lines = body.splitlines()
        assert running.rows == len(lines)
        return [msgspec.json.decode(line) for line in lines]

    return asking(inputs, nursery, use, **limits)


def test_a_query_reads_its_tables(inputs: Inputs, nursery: Nursery) -> None:
    query = "SELECT count(*) AS n, min(email) AS e FROM visits WHERE amount = $a"
    assert rows(inputs, nursery, asked(query, parameters={"a": 10})) == [
        {"n": 100, "e": "person0@example.org"}
    ]
    assert rows(inputs, nursery, asked("SELECT points FROM Members ORDER BY 1")) == [
        {"points": 5},
        {"points": 6},
    ]
    assert rows(
        inputs, nursery, asked("SELECT a.amount FROM ws_w.visits a JOIN visits b USING (visit_id) LIMIT 1")
    ) == [{"amount": 10}]
    assert {"name": "visits"} in rows(inputs, nursery, asked("SHOW TABLES"))
    described = rows(inputs, nursery, asked("DESCRIBE members"))
    assert [row["column_name"] for row in described] == ["member_id", "slot", "points", "address"]
    assert rows(inputs, nursery, asked("SELECT 1 AS a WHERE false")) == []
    plan = rows(inputs, nursery, asked("EXPLAIN SELECT amount FROM visits"))
    assert str(inputs.lake.warehouse) not in str(plan)


def test_a_masked_query_sees_no_personal_column(inputs: Inputs, nursery: Nursery) -> None:
    assert rows(inputs, nursery, asked("SELECT DISTINCT email, tags, amount FROM visits", masked=True)) == [
        {"email": None, "tags": None, "amount": 10}
    ]
    assert rows(inputs, nursery, asked("SELECT points, address FROM members ORDER BY 1", masked=True)) == [
        {"points": 5, "address": None},
        {"points": 6, "address": None},
    ]


def test_what_is_masked_is_in_no_file_that_is_handed_over(inputs: Inputs) -> None:
    handed = inputs.hand_over("", named("visits", "members"), masked=True)
    try:
        held = [pyarrow.parquet.read_table(f"/proc/self/fd/{file}") for file in handed.files]
    finally:
        handed.close()
    assert [table.column_names for table in held] == [
        ["visit_id", "amount", "seen_at"],
        ["member_id", "slot", "points"],
    ]
    # Nor does a copy stay behind.
    assert list(inputs.spool.iterdir()) == []


def test_only_the_tables_named_are_handed_over(inputs: Inputs) -> None:
    handed = inputs.hand_over("", named("members"), masked=False)
    try:
        links = [str(Path(f"/proc/self/fd/{file}").readlink()) for file in handed.files]
    finally:
        handed.close()
    assert links
    assert all("/ws_w/members" in link for link in links)


@pytest.mark.parametrize("masked", [False, True])
def test_a_table_is_handed_over_once_however_often_and_however_spelt_it_is_named(
    inputs: Inputs, nursery: Nursery, masked: bool
) -> None:
    names = ("visits", "VISITS", "main.Visits", "Main.visits", "ws_w.visits", "WS_W.Visits")
    every = " UNION ALL ".join(f"FROM {name}" for name in names)
    query = f"SELECT count(*) AS n FROM ({every})"  # noqa: S608
    assert rows(inputs, nursery, asked(query, masked=masked)) == [{"n": 600}]
    checked = Checked(
        [TableNamed(n.rpartition(".")[0], n.rpartition(".")[2], None) for n in names], all_tables=True
    )
    handed = inputs.hand_over("", checked, masked=masked)
    once = inputs.hand_over("", named("visits"), masked=masked)
    try:
        assert len(handed.files) == len(once.files)
        assert len({(view.schema.lower(), view.name.lower()) for view in handed.views}) == len(handed.views)
    finally:
        handed.close()
        once.close()


def test_no_more_files_are_opened_than_a_worker_takes(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("profilelake.query.inputs.FILES_MAX", 1)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(Failed) as failed:
        inputs.hand_over("", named("visits", "members"), masked=False)
    assert failed.value.failure.code == "too_complex"
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    "query",
    [
        "FROM nothing",
        "FROM ws_other.visits",
        "FROM w.visits",
        "SELECT 1 FROM visits WHERE 1 IN (SELECT 1 FROM nothing)",
    ],
)
def test_a_table_that_is_not_there_is_told_with_its_place(
    inputs: Inputs, nursery: Nursery, query: str
) -> None:
    with pytest.raises(Failed) as failed:
        rows(inputs, nursery, asked(query))
    failure = failed.value.failure
    assert (failure.code, failure.line) == ("table_not_found", 1)
    assert failure.column == query.rindex("FROM ") + 6


@pytest.mark.parametrize(
    ("query", "code", "place"),
    [
        ("SELEC 1", "invalid_sql", (1, 1)),
        ("SELECT amount,\n  é, nix FROM visits", "column_not_found", (2, 3)),
        ("EXPLAIN SELECT nix FROM visits", "column_not_found", (1, 16)),
        ("SELECT 'x'::INT", "invalid_value", None),
        ("SELECT nix(1)", "invalid_query", None),
        ("SELECT ?", "invalid_parameters", None),
        ("SELECT INTERVAL 1 DAY AS i", "result_format", None),
        (
            "SELECT CASE WHEN range = 90000 THEN 'x' ELSE '1' END::INT AS n FROM range(99999)",
            "invalid_value",
            None,
        ),
        ("SELECT * FROM range(1000000)", "row_limit", None),
        ("SELECT repeat('x', 70000) FROM range(50)", "byte_limit", None),
    ],
)
def test_what_is_wrong_has_a_code_and_a_place(
    inputs: Inputs, nursery: Nursery, query: str, code: str, place: tuple[int, int] | None
) -> None:
    question = asked(query, format="parquet" if code == "result_format" else "ndjson")
    with pytest.raises(Failed) as failed:
        rows(inputs, nursery, question, rows_max=100_000, bytes_max=2 << 20)
    failure = failed.value.failure
    assert failure.code == code, failure
    if place is not None:
        assert (failure.line, failure.column) == place


@pytest.mark.parametrize(
    "parameters", [[1 << 90], [nested(900)], [nested(100_000)]], ids=["large", "deep", "abyss"]
)
def test_parameters_that_no_query_can_have_are_told(
    inputs: Inputs, nursery: Nursery, parameters: list[Any]
) -> None:
    with pytest.raises(Failed) as failed:
        rows(inputs, nursery, asked("SELECT ? AS p", parameters=parameters))
    assert failed.value.failure.code == "invalid_parameters"


def test_time_and_memory_are_kept(inputs: Inputs, nursery: Nursery) -> None:
    with pytest.raises(Failed) as failed:
        rows(inputs, nursery, asked(ENDLESS, seconds=2))
    assert failed.value.failure.code == "timeout"
    with pytest.raises(Failed) as failed:
        rows(inputs, nursery, asked("SELECT list(i) FROM range(10000000000) t(i)"), memory_bytes=128 << 20)
    assert failed.value.failure.code == "memory_limit"


def test_the_kernel_keeps_a_worker_near_its_memory_and_ends_it_before_others(
    inputs: Inputs, nursery: Nursery
) -> None:
    memory = 64 << 20

    async def use(queries: Queries) -> None:
        queries._checked[ENDLESS] = Checked([], all_tables=False)  # so that there is one worker only
        asking = asyncio.create_task(_until_ended(queries))
        while not (pids := workers(nursery)):  # noqa: ASYNC110 - the kernel's
            await asyncio.sleep(0.01)
        place = Path("/proc") / pids[0]
        while (place / "oom_score_adj").read_text() != "1000\n":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        while (most := _address_bytes_max(place)) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert most <= libraries_bytes + memory + (1 << 30) + (512 << 20)

    async def bounded(queries: Queries) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await use(queries)

    assert rows(inputs, nursery, asked("SELECT 1 AS a"), memory_bytes=memory) == [{"a": 1}]
    assert nursery._process is not None
    pages = Path(f"/proc/{nursery._process.pid}/statm").read_text().split()[0]
    libraries_bytes = int(pages) * resource.getpagesize()
    asking(inputs, nursery, bounded, memory_bytes=memory)
    wide = "SELECT repeat('x', 1000000) AS a FROM range(3000)"
    with pytest.raises(Failed) as failed:
        rows(inputs, nursery, asked(wide, format="arrow"), memory_bytes=memory)
    assert failed.value.failure.code == "memory_limit"


async def _until_ended(queries: Queries) -> None:
    async with queries.asked(asked(ENDLESS)):
        pass


def _address_bytes_max(place: Path) -> int | None:
    limits = (place / "limits").read_text().splitlines()
    most = next(line.split()[3] for line in limits if line.startswith("Max address space"))
    return None if most == "unlimited" else int(most)


def test_a_token_runs_so_many_queries_and_no_more(inputs: Inputs, nursery: Nursery) -> None:
    async def use(queries: Queries) -> None:
        async with queries.asked(asked("SELECT 1", token="a")):
            with pytest.raises(TooMany):
                async with queries.asked(asked("SELECT 1", token="a")):
                    pass
            async with queries.asked(asked("SELECT 1", token="b")):
                assert not queries.has_room("c")
        assert queries.has_room("a")

    asking(inputs, nursery, use, queries_max=2, queries_per_token_max=1)


def test_a_copy_ends_with_the_time_of_its_query_which_has_its_place_until_then(
    inputs: Inputs, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[str] = []
    select = reading.select

    def endless(*arguments: Any, **more: Any) -> str:
        running.append("copy")
        return f"FROM ({select(*arguments, **more)}), ({ENDLESS}) AS e(n) WHERE n > 0"

    monkeypatch.setattr(reading, "select", endless)

    async def use(queries: Queries) -> None:
        async def ask(seconds: float) -> None:
            async with queries.asked(asked("SELECT amount FROM visits", masked=True, seconds=seconds)):
                pass

        with pytest.raises(Failed) as failed:
            await ask(1)
        assert failed.value.failure.code == "timeout"
        assert queries.has_room(TOKEN)
        leaving = asyncio.create_task(ask(WAIT_SECONDS))
        while len(running) < 2:  # noqa: ASYNC110 - another thread's
            await asyncio.sleep(0.01)
        for _ in range(2):
            leaving.cancel()
            await asyncio.sleep(0)
        assert not queries.has_room(TOKEN), "the copy goes on"
        await asyncio.gather(leaving, return_exceptions=True)
        assert leaving.cancelled()
        assert queries.has_room(TOKEN)
        assert list(inputs.spool.iterdir()) == []

    async def bounded(queries: Queries) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await use(queries)

    asking(inputs, nursery, bounded, queries_max=1)


def test_a_nursery_that_was_killed_is_started_again(inputs: Inputs) -> None:
    nursery = Nursery()
    nursery.start()
    try:
        assert nursery._process is not None
        nursery._process.kill()
        nursery._process.wait()
        assert rows(inputs, nursery, asked("SELECT 1 AS a")) == [{"a": 1}]
    finally:
        nursery.stop()


def test_who_gives_up_while_his_worker_is_forked_disturbs_nobody(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither are other queries ended, nor does his own run on."""
    nursery, fork = Nursery(), Nursery._fork
    nursery.start()
    entered, go_on = threading.Event(), threading.Event()

    def held(*arguments: Any) -> int:
        entered.set()
        assert go_on.wait(WAIT_SECONDS)
        return fork(*arguments)

    async def use(queries: Queries) -> None:
        async def ask() -> None:
            async with queries.asked(asked(ENDLESS)):
                pass

        others = [asyncio.create_task(ask()), asyncio.create_task(ask())]
        while len(workers(nursery)) < 2:  # noqa: ASYNC110 - the kernel's
            await asyncio.sleep(0.01)
        process = nursery._process
        monkeypatch.setattr(Nursery, "_fork", held)
        entered.clear()
        leaving = asyncio.create_task(ask())
        await asyncio.to_thread(entered.wait, WAIT_SECONDS)
        leaving.cancel()
        await asyncio.sleep(0.01)
        assert not queries.has_room(TOKEN), "a worker that may still come counts"
        go_on.set()
        await asyncio.gather(leaving, return_exceptions=True)
        assert queries.has_room(TOKEN)
        while len(workers(nursery)) > 2:  # noqa: ASYNC110 - the kernel's
            await asyncio.sleep(0.01)
        assert nursery._process is process
        assert not any(other.done() for other in others)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def bounded(queries: Queries) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await use(queries)

    try:
        asking(inputs, nursery, bounded, queries_max=3, queries_per_token_max=3)
    finally:
        go_on.set()
        nursery.stop()


def workers(nursery: Nursery) -> list[str]:
    assert nursery._process is not None
    pid = nursery._process.pid
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []


FORKS = """
import errno, os, signal, socket, sys
from profilelake.query import worker
fork = os.fork

def full():
    os.fork = quick
    raise OSError(errno.EAGAIN, "no more processes")

def quick():
    # The worker has ended before anybody could look at it.
    child = fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    return child

os.fork = full
worker.main(int(sys.argv[1]))
"""


def test_what_forks_workers_survives_one_that_ends_at_once_and_one_that_cannot_be() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(WAIT_SECONDS)
    with ours, theirs, Path(__file__).open("rb") as file:
        forking = subprocess.Popen(
            [sys.executable, "-c", FORKS, str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
        try:
            theirs.close()
            assert ours.recv(16) == b"ready"
            # A job that was not sent to its end is none.
            socket.send_fds(ours, [message_of(first=True, last=False)], [file.fileno()])
            answers = []
            for _ in range(3):
                socket.send_fds(ours, [message_of(first=True, last=True)], [file.fileno()] * 3)
                answer, received, _, _ = socket.recv_fds(ours, 16, 1)
                answers.append((answer, len(received)))
                for descriptor in received:
                    os.close(descriptor)
            assert answers == [(NOT_FORKED, 0), (FORKED, 1), (FORKED, 1)]
            # The descriptors of jobs are not kept; those of the last are closed about now.
            links = [link.readlink() for link in Path(f"/proc/{forking.pid}/fd").iterdir()]
            assert links.count(Path(__file__)) <= 3
        finally:
            forking.kill()
            forking.wait()


def test_files_that_went_away_are_planned_again(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []

    def place(location: str) -> str:
        if len(gone) < times:
            gone.append(location)
            return "/no/such/file"
        return local(location)

    local = sql.local_place
    monkeypatch.setattr(sql, "local_place", place)
    times = ATTEMPTS_MAX - 1
    inputs.hand_over("", named("visits"), masked=False).close()
    assert len(gone) == times
    gone.clear()
    times = ATTEMPTS_MAX
    with pytest.raises(Unavailable):
        inputs.hand_over("", named("visits"), masked=False)


def with_jobs(
    inputs: Inputs,
    nursery: Nursery,
    use: Callable[[Jobs, Callable[[int], None]], Awaitable[None]],
    **more: Any,
) -> None:
    async def main() -> None:
        now = [1_000_000]
        queries = Queries(inputs, nursery, QueryLimits(queries_max=1))
        spool = inputs.spool / "jobs"
        jobs = Jobs(queries, spool, lambda: now[0], more.get("bytes_max", 1 << 30), keep_seconds=60)
        jobs.start()

        def pass_time(seconds: int) -> None:
            now[0] += seconds * 1_000_000

        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await use(jobs, pass_time)
        finally:
            await jobs.stop()
        assert not spool.exists()

    run(main())


async def ended(jobs: Jobs, job: Job) -> Job:
    assert job.task is not None
    await asyncio.gather(job.task, return_exceptions=True)
    return job


def test_a_job_runs_in_turn_and_its_result_waits_for_a_while(inputs: Inputs, nursery: Nursery) -> None:
    async def use(jobs: Jobs, pass_time: Callable[[int], None]) -> None:
        first, second = (jobs.add(asked(f"SELECT {n} AS n", token="t")) for n in (1, 2))
        assert {first.status, second.status} == {"queued"}
        for job, body in ((first, b'{"n":1}\n'), (second, b'{"n":2}\n')):
            assert (await ended(jobs, job)).status == "done"
            assert (job.rows, job.bytes) == (1, len(body))
            path = jobs.result(job.id, "t")
            assert path.read_bytes() == body
        with pytest.raises(NotFound):
            jobs.get(first.id, "another token")
        pass_time(59)
        assert jobs.get(first.id, "t").status == "done"
        pass_time(2)
        with pytest.raises(NotFound):
            jobs.result(first.id, "t")
        assert not path.exists()

    with_jobs(inputs, nursery, use)


def test_a_job_can_be_ended_and_says_why_it_failed(inputs: Inputs, nursery: Nursery) -> None:
    async def use(jobs: Jobs, _pass_time: Callable[[int], None]) -> None:
        running, waiting = jobs.add(asked(ENDLESS)), jobs.add(asked("SELECT 1"))
        while running.status == "queued":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        with pytest.raises(Conflict):
            jobs.result(running.id, "t")
        for job in (waiting, running):
            assert jobs.cancel(job.id, "t").status == "cancelled"
            await ended(jobs, job)
        assert jobs.queries.has_room("t")
        wrong = await ended(jobs, jobs.add(asked("SELECT nix FROM visits")))
        assert (wrong.status, wrong.failure and wrong.failure.code) == ("failed", "column_not_found")
        large = await ended(jobs, jobs.add(asked("SELECT repeat('x', 100) FROM range(1000)")))
        assert (large.status, large.failure and large.failure.code) == ("failed", "byte_limit")

    with_jobs(inputs, nursery, use, bytes_max=10_000)


def test_the_lake_of_another_workspace_is_not_there(inputs: Inputs) -> None:
    lake: Lake = inputs.lake
    assert lake.names("other") == ["visits"]
    with pytest.raises(Failed):
        inputs.hand_over("", Checked([TableNamed("ws_other", "visits", 0)], all_tables=False), masked=False)
    listed = inputs.hand_over("", Checked([], all_tables=True), masked=False)
    assert {view.name for view in listed.views} == {"visits", "members", "members_changes"}
