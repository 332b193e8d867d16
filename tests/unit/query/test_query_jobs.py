"""Jobs when something is wrong with the server, and when tokens want more than their share."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lake_examples import open_lake
from profilelake.errors import Corrupt, NotFound
from profilelake.ops.http import run
from profilelake.query import jobs as jobs_module
from profilelake.query.asking import Asked, Queries, QueryLimits, TooMany
from profilelake.query.inputs import Inputs
from profilelake.query.jobs import QUEUED_PER_TOKEN_MAX, UNEXPECTED, Job, Jobs
from profilelake.query.nursery import Nursery

TOKEN = "t"


def asked(query: str, token: str = TOKEN) -> Asked:
    return Asked(query, None, "ndjson", 20, token, masked=False)


def with_jobs(
    directory: Path, use: Callable[[Jobs], Awaitable[None]], *, spool_bytes: int = 1 << 30, queries: int = 4
) -> None:
    async def main() -> None:
        lake, nursery = open_lake(directory), Nursery()
        limits = QueryLimits(queries_max=queries)
        asking = Queries(Inputs(lake, "w", directory), nursery, limits)
        jobs = Jobs(asking, directory / "jobs", lambda: 0, spool_bytes, keep_seconds=60)
        jobs.start()
        try:
            await use(jobs)
        finally:
            await jobs.stop()
            nursery.stop()
            lake.close()

    run(main())


async def ended(job: Job) -> Job:
    assert job.task is not None
    await job.task
    return job


@pytest.mark.parametrize("error", [Corrupt("reading /secret/place: it is damaged"), RuntimeError("a flaw")])
def test_a_job_ends_whatever_goes_wrong_and_tells_nothing_of_our_insides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    async def use(jobs: Jobs) -> None:
        job = await ended(jobs.add(asked("SELECT 1")))
        assert (job.status, job.failure) == ("failed", UNEXPECTED)
        assert jobs.queries.has_room("t")

    monkeypatch.setattr(Inputs, "hand_over", broken)
    with_jobs(tmp_path, use)
    assert str(error) in caplog.text


def test_a_job_that_ended_keeps_neither_its_query_nor_its_parameters(tmp_path: Path) -> None:
    async def use(jobs: Jobs) -> None:
        job = await ended(jobs.add(replace(asked("SELECT ? AS n"), parameters=["x" * 1000])))
        assert (job.status, job.asked.query, job.asked.parameters) == ("done", "", None)
        assert jobs.get(job.id, TOKEN).asked.format == "ndjson"

    with_jobs(tmp_path, use)


def test_the_jobs_of_one_token_that_wait_leave_room_for_others(tmp_path: Path) -> None:
    async def use(jobs: Jobs) -> None:
        for _ in range(QUEUED_PER_TOKEN_MAX):
            jobs.add(asked("SELECT 1"))
        with pytest.raises(TooMany, match="10 jobs of this token wait") as told:
            jobs.add(asked("SELECT 1"))
        assert told.value.retry_after_seconds == 10
        assert jobs.add(asked("SELECT 1", "another")).status == "queued"

    with_jobs(tmp_path, use, queries=0)


def test_a_token_takes_the_place_of_its_own_jobs_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "JOBS_PER_TOKEN_MAX", 2)
    monkeypatch.setattr(jobs_module, "JOBS_MAX", 3)

    async def use(jobs: Jobs) -> None:
        def added(token: str, *, ended: bool) -> Job:
            job = jobs.add(asked("SELECT 1", token))
            return jobs.cancel(job.id, token) if ended else job

        def remembered(job: Job) -> bool:
            try:
                return jobs.get(job.id, job.asked.token) is job
            except NotFound:
                return False

        oldest, first, second = added("a", ended=True), added("b", ended=True), added("b", ended=False)
        third = added("b", ended=False)
        assert [remembered(job) for job in (oldest, first, second, third)] == [True, False, True, True]
        with pytest.raises(TooMany, match="none of 2 jobs has ended"):
            added("b", ended=False)
        # Nobody else has one that ended: that of another token goes.
        added("c", ended=False)
        assert not remembered(oldest)
        with pytest.raises(TooMany, match="none of 3 jobs has ended"):
            added("d", ended=False)

    with_jobs(tmp_path, use, queries=0)


def test_the_results_of_one_token_leave_room_for_those_of_others(tmp_path: Path) -> None:
    large = "SELECT repeat('x', 100) FROM range(700)"

    async def use(jobs: Jobs) -> None:
        first, second = [await ended(jobs.add(asked(large))) for _ in range(2)]
        assert first.status == "done"
        assert second.failure is not None
        assert (second.failure.code, "this token" in second.failure.message) == ("byte_limit", True)
        assert (await ended(jobs.add(asked(large, "another")))).status == "done"

    with_jobs(tmp_path, use, spool_bytes=200_000)
