"""Jobs when something is wrong with the server, and when tokens want more than their share."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lake_examples import open_lake
from profilelake.errors import Corrupt
from profilelake.ops.http import run
from profilelake.query.asking import Asked, Queries, QueryLimits
from profilelake.query.inputs import Inputs
from profilelake.query.jobs import UNEXPECTED, Job, Jobs
from profilelake.query.nursery import Nursery

TOKEN = "t"


def asked(query: str, token: str = TOKEN) -> Asked:
    return Asked(query, None, "ndjson", 20, token, masked=False)


def with_jobs(directory: Path, use: Callable[[Jobs], Awaitable[None]], *, spool_bytes: int = 1 << 30) -> None:
    async def main() -> None:
        lake, nursery = open_lake(directory), Nursery()
        queries = Queries(Inputs(lake, "w", directory), nursery, QueryLimits())
        jobs = Jobs(queries, directory / "jobs", lambda: 0, spool_bytes, keep_seconds=60)
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
