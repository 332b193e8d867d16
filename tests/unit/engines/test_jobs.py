"""Jobs: what is done is done once, whatever kills the driver."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from profilelake.engines.jobs import Job, known_jobs, remove_job, sweep_jobs
from profilelake.errors import NotFound
from profilelake.lake.storage import LocalStorage


def steps(job: Job, ran: list[str], fails: str = "") -> list[dict[int, bytes]]:
    """Run a plan of three steps, one of which may fail."""

    def step(
        name: str, answers: dict[int, bytes] | list[bytes]
    ) -> Callable[[], dict[int, bytes] | list[bytes]]:
        def run() -> dict[int, bytes] | list[bytes]:
            ran.append(name)
            if name == fails:
                raise KeyboardInterrupt
            job.storage.write(f"{job.folder(name)}/rows", b"rows")
            return answers

        return run

    return [
        job.step("first", step("first", [b"a", b"b"])),
        job.step("second", step("second", {7: b"c"})),
        job.step("third", step("third", {})),
    ]


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(str(tmp_path))


class TestGoingOn:
    @pytest.mark.parametrize(
        ("fails", "ran"),
        [
            ("first", ["first", "first", "second", "third"]),
            ("second", ["first", "second", "second", "third"]),
            ("third", ["first", "second", "third", "third"]),
        ],
    )
    def test_it_goes_on_exactly_where_it_was(self, storage: LocalStorage, fails: str, ran: list[str]) -> None:
        found: list[str] = []
        with pytest.raises(KeyboardInterrupt):
            steps(Job(storage, "rebuild", [1]), found, fails)
        again = Job(storage, "rebuild", [1])
        assert steps(again, found) == [{0: b"a", 1: b"b"}, {7: b"c"}, {}]
        assert found == ran
        assert list(again.seconds) == ["first", "second", "third"]

    def test_a_job_from_before_there_were_claims_is_gone_on_with(self, storage: LocalStorage) -> None:
        said = b'["rebuild",[1]]'
        folder = f"{storage.root}/_jobs/rebuild-{hashlib.sha256(said).hexdigest()[:20]}"
        storage.write(f"{folder}/job.json", said)
        storage.write(
            f"{folder}/first/done.msgpack",
            msgspec.msgpack.encode({"answers": [(0, b"a"), (1, b"b")], "seconds": 1.5}),
        )
        (known,) = known_jobs(storage)
        assert (known.steps, known.holder) == ((("first", 1.5),), None)
        found: list[str] = []
        with Job(storage, "rebuild", [1]) as job:
            assert job.id == known.id
            assert steps(job, found)[0] == {0: b"a", 1: b"b"}
        assert found == ["second", "third"]

    def test_other_inputs_are_another_job(self, storage: LocalStorage) -> None:
        found: list[str] = []
        steps(Job(storage, "rebuild", [1]), found)
        steps(Job(storage, "rebuild", [2]), found)
        assert len(found) == 6
        assert len(known_jobs(storage)) == 2

    def test_nothing_of_a_finished_job_stays(self, storage: LocalStorage) -> None:
        job = Job(storage, "rebuild", [1])
        steps(job, [])
        job.finish()
        assert known_jobs(storage) == []
        assert list(storage.list(storage.root)) == []


class TestKnowing:
    def test_unfinished_jobs_are_listed_with_their_steps(self, storage: LocalStorage) -> None:
        with pytest.raises(KeyboardInterrupt):
            steps(Job(storage, "rebuild", [1]), [], "third")
        (job,) = known_jobs(storage)
        assert job.id.startswith("rebuild-")
        assert {name for name, _ in job.steps} == {"first", "second"}
        assert (job.files, job.bytes > 8) == (5, True)

    def test_removing_takes_all_of_one(self, storage: LocalStorage) -> None:
        for inputs in (1, 2):
            with Job(storage, "rebuild", inputs) as job:
                steps(job, [])
        first, second = known_jobs(storage)
        assert remove_job(storage, first.id) == 7
        assert [job.id for job in known_jobs(storage)] == [second.id]

    @pytest.mark.parametrize("id", ["rebuild-0", "..", "", "../ws_default", "a/b"])
    def test_what_is_no_job_is_not_removed(self, storage: LocalStorage, id: str) -> None:
        storage.write(f"{storage.root}/ws_default/file", b"")
        with pytest.raises(NotFound, match="profilelake engine jobs list"):
            remove_job(storage, id)
        assert storage.size(f"{storage.root}/ws_default/file") == 0

    def test_old_ones_are_swept(self, storage: LocalStorage) -> None:
        with Job(storage, "rebuild", 1) as begun:
            steps(begun, [])
        (job,) = known_jobs(storage)
        assert sweep_jobs(storage, 60, job.touched_at + 60) == []
        assert sweep_jobs(storage, 60, job.touched_at + 61) == [job.id]
        assert known_jobs(storage) == []
