"""Who runs a job whose files lie on an object store: one driver, until it ends or is silent for a lease."""

import signal
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from claim_drivers import Driver, driver
from profilelake.engines.jobs import known_jobs, release_job, remove_job
from profilelake.errors import Unavailable
from profilelake.lake.object_storage import ObjectStorage
from profilelake.settings import StorageOptions

SECONDS_MAX = 60
SHORT = {"LEASE_SECONDS": "3", "HEARTBEAT_SECONDS": "0.5"}
"""Leases that tests can wait for; a second is what the store tells the time by."""


@pytest.fixture
def objects(s3: Any, monkeypatch: pytest.MonkeyPatch) -> ObjectStorage:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    options = StorageOptions(endpoint=s3.endpoint, plain_http="allowed")
    return ObjectStorage(f"s3://{s3.bucket}/{uuid.uuid4().hex}", options)


@pytest.fixture
def asked(objects: ObjectStorage) -> tuple[str, str]:
    return objects.root, objects.options.endpoint


def begun_at_last(asked: tuple[str, str]) -> Iterator[Driver]:
    """Begin the job, again and again until nobody has it."""
    give_up_at = time.monotonic() + SECONDS_MAX
    while True:
        with driver(*asked, **SHORT) as next_one:
            if next_one.begun == "begun":
                yield next_one
                return
            assert next_one.begun.startswith("Unavailable: "), next_one.begun
        assert time.monotonic() < give_up_at
        time.sleep(0.5)


def test_a_second_process_is_told_who_runs_it(asked: tuple[str, str], objects: ObjectStorage) -> None:
    with driver(*asked) as first, driver(*asked) as second:
        assert first.begun == "begun"
        assert f"process {first.pid} on " in second.begun
        assert "profilelake engine jobs release test-" in second.begun
        (job,) = known_jobs(objects)
        assert job.holder is not None
        assert job.holder.pid == first.pid
        with pytest.raises(Unavailable, match=f"being run by process {first.pid}"):
            remove_job(objects, job.id)
        assert first.says("step one") == "ran"
        assert first.says("commit") == "committed"
        assert first.says("finish") == "finished"
    assert known_jobs(objects) == []
    assert [file.location for file in objects.list(objects.root)] == [f"{objects.root}/committed"]


def test_one_that_was_killed_here_is_gone_on_with_at_once(asked: tuple[str, str]) -> None:
    killed = Driver(*asked)
    assert killed.says("step one") == "ran"
    killed.kill()
    with driver(*asked) as next_one:
        assert next_one.begun == "begun"
        assert next_one.says("step one") == "done before"
        assert next_one.says("commit") == "committed"


def test_one_that_was_halted_for_a_lease_commits_nothing(
    asked: tuple[str, str], objects: ObjectStorage
) -> None:
    with driver(*asked, **SHORT) as halted:
        assert halted.says("step one") == "ran"
        halted.signal(signal.SIGSTOP)
        for next_one in begun_at_last(asked):
            assert next_one.says("step one") == "done before"
            halted.signal(signal.SIGCONT)
            assert halted.says("commit").startswith("Conflict: running job test-")
            assert next_one.says("commit") == "committed"
            assert objects.read(f"{objects.root}/committed") == str(next_one.pid).encode()
            assert next_one.says("finish") == "finished"
    assert known_jobs(objects) == []


def test_heartbeats_hold_it_for_longer_than_a_lease(asked: tuple[str, str]) -> None:
    with driver(*asked, **SHORT) as first:
        assert first.begun == "begun"
        time.sleep(2 * float(SHORT["LEASE_SECONDS"]))
        with driver(*asked, **SHORT) as second:
            assert second.begun.startswith("Unavailable: ")
        assert first.says("commit") == "committed"


def test_one_that_is_released_can_be_taken_and_its_driver_stops(
    asked: tuple[str, str], objects: ObjectStorage
) -> None:
    with driver(*asked) as first:
        (job,) = known_jobs(objects)
        assert release_job(objects, job.id)
        with driver(*asked) as second:
            assert second.begun == "begun"
            assert first.says("commit").startswith("Conflict: ")
            assert second.says("commit") == "committed"
    assert not release_job(objects, job.id)
