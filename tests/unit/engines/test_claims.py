"""One driver at a time runs a job; the next one goes on with it when that is gone."""

import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from claim_child import INPUTS, KIND
from claim_drivers import Driver, driver
from command_line import run, told
from profilelake.engines import claims
from profilelake.engines.claims import Holder, Leased
from profilelake.engines.jobs import FOLDER, Job, known_jobs, release_job, remove_job, sweep_jobs
from profilelake.errors import Conflict, NotFound, Unavailable
from profilelake.lake.storage import LocalStorage, Stored
from profilelake.settings import Layout

SECONDS_MAX = 30
Take = Callable[[Holder], Leased]


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(str(tmp_path))


def run_by(storage: LocalStorage) -> int | None:
    (job,) = known_jobs(storage)
    return job.holder.pid if job.holder else None


class TestInADirectory:
    def test_a_second_process_is_told_who_runs_it(self, storage: LocalStorage) -> None:
        with driver(storage.root) as first, driver(storage.root) as second:
            assert first.begun == "begun"
            assert second.begun.startswith("Unavailable: running job test-")
            assert f"process {first.pid} on " in second.begun
            assert ", since 20" in second.begun
            assert "run the same again" in second.begun
            assert first.says("step one") == "ran"
            assert first.says("commit") == "committed"
            assert first.says("finish") == "finished"
        assert known_jobs(storage) == []

    def test_a_killed_driver_is_gone_on_with_at_once(self, storage: LocalStorage) -> None:
        killed = Driver(storage.root)
        assert killed.says("step one") == "ran"
        assert run_by(storage) == killed.pid
        killed.kill()
        assert run_by(storage) is None
        with driver(storage.root) as next_one:
            assert next_one.begun == "begun"
            assert run_by(storage) == next_one.pid
            assert next_one.says("step one") == "done before"
            assert next_one.says("step two") == "ran"
            assert next_one.says("finish") == "finished"
        assert known_jobs(storage) == []

    def test_one_that_failed_leaves_the_job_to_others(self, storage: LocalStorage) -> None:
        with pytest.raises(KeyboardInterrupt), Job(storage, KIND, INPUTS):
            raise KeyboardInterrupt
        assert run_by(storage) is None
        with driver(storage.root) as other:
            assert other.begun == "begun"

    def test_what_runs_is_neither_removed_nor_swept_nor_released(self, storage: LocalStorage) -> None:
        with driver(storage.root) as running:
            (job,) = known_jobs(storage)
            with pytest.raises(Unavailable, match=f"being run by process {running.pid}"):
                remove_job(storage, job.id)
            assert sweep_jobs(storage, 60, job.touched_at + 1_000_000) == []
            with pytest.raises(Conflict, match=f"run by process {running.pid} .*; stop that process"):
                release_job(storage, job.id)
            assert running.says("commit") == "committed"
            running.kill()
        assert not release_job(storage, job.id)
        assert remove_job(storage, job.id) == 1

    def test_of_this_process_neither(self, storage: LocalStorage) -> None:
        with Job(storage, KIND, INPUTS) as job:
            with pytest.raises(Unavailable):
                remove_job(storage, job.id)
            job.check()

    def test_looking_at_jobs_keeps_nobody_from_one(self, storage: LocalStorage) -> None:
        with Job(storage, KIND, INPUTS) as job:
            job.step("one", list)
        looking = threading.Event()

        def look() -> None:
            while not looking.is_set():
                known_jobs(storage)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            for _ in range(50):
                with Job(storage, KIND, INPUTS) as job:
                    job.check()
        finally:
            looking.set()
            thread.join(SECONDS_MAX)

    def test_a_folder_that_was_taken_away_is_a_lost_claim(self, storage: LocalStorage) -> None:
        with Job(storage, KIND, INPUTS) as job:
            shutil.rmtree(f"{storage.root}/{FOLDER}/{job.id}")
            with driver(storage.root) as other:
                assert other.begun == "begun"
                with pytest.raises(Conflict, match="commits nothing more"):
                    job.step("one", lambda: [b""])
                with pytest.raises(Conflict, match="commits nothing more"):
                    job.check()
                assert other.says("step one") == "ran"
                job.finish()
                assert other.says("step one") == "done before"

    def test_a_lost_claim_of_this_process_is_taken_anew(self, storage: LocalStorage) -> None:
        with Job(storage, KIND, INPUTS) as job:
            shutil.rmtree(f"{storage.root}/{FOLDER}/{job.id}")
            with Job(storage, KIND, INPUTS) as again:
                again.check()
                with pytest.raises(Conflict):
                    job.check()
                job.leave()
                again.check()
            assert run_by(storage) is None

    def test_a_file_system_that_lets_nobody_lock_is_told(
        self, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refused)
        with pytest.raises(Unavailable, match=r"No locks available; see .* has locks"):
            Job(storage, KIND, INPUTS)

    def test_a_claim_of_another_user_hides_no_other_job(
        self, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        foreign, ours = (Job(storage, KIND, [number]) for number in range(2))
        for job in (foreign, ours):
            job.step("one", list)
            job.leave()
        closed = Path(foreign.folder("claim"))
        closed.touch()
        opened = os.open

        def refused(path: str | Path, *options: int) -> int:
            if Path(path) == closed:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return opened(path, *options)

        monkeypatch.setattr(os, "open", refused)
        by = {job.id: job.holder for job in known_jobs(storage)}
        assert by[ours.id] is None
        assert by[foreign.id] is not None
        assert sweep_jobs(storage, 0, time.time() + SECONDS_MAX) == [ours.id]

    def test_two_jobs_of_one_process_stand_on_one_claim(self, storage: LocalStorage) -> None:
        with Job(storage, KIND, INPUTS) as job:
            with Job(storage, KIND, INPUTS) as again:
                again.check()
            job.check()
            assert run_by(storage) == os.getpid()
            with pytest.raises(Conflict, match="it was left"):
                again.check()

    def test_the_command_shows_who_runs_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PROFILELAKE_LAKE_WAREHOUSE", str(tmp_path / "lake"))
        Layout(tmp_path / "data").create()
        options = ("--dir", tmp_path / "data")
        with driver(f"file://{tmp_path}/lake") as running:
            (row,) = run("engine", "jobs", "list", *options, "--json").json
            assert (row["process"], row["since"][:2]) == (str(running.pid), "20")
            shown = run("engine", "jobs", "show", row["job"], *options)
            assert f"run by process {running.pid} on " in shown.err
            told(run("engine", "jobs", "remove", row["job"], *options), 5, "it is being run by process")
            told(run("engine", "jobs", "release", row["job"], *options), 4, "stop that process")
        told(run("engine", "jobs", "release", "none", *options), 3, "there is no such job")


# ---- with a lease ------------------------------------------------------------------------------


@pytest.fixture
def folder(storage: LocalStorage) -> str:
    """The folder of a job whose claim is by lease, as on an object store."""
    return f"{storage.root}/{FOLDER}/job-1"


@pytest.fixture
def take(storage: LocalStorage, folder: str) -> Iterator[Callable[[Holder], Leased]]:
    """Takes the claim for a driver; all are released at the end."""
    taken: list[Leased] = []

    def one(me: Holder) -> Leased:
        taken.append(Leased(storage, folder, me))
        return taken[-1]

    yield one
    for claim in taken:
        claim.release()


def elsewhere(**changes: object) -> Holder:
    """A driver on another machine."""
    return msgspec.structs.replace(Holder.now(), host="other", machine="other", **changes)


def silent(storage: LocalStorage, seconds: float) -> None:
    """Let all claims be so old."""
    for file in list(storage.list(storage.root)):
        then = time.time() - seconds
        with suppress(FileNotFoundError):  # a heartbeat that was being written
            os.utime(file.location, (then, then))


class Forgetful(LocalStorage):
    """Lists so many times, then it is away."""

    answers = 0

    def list(self, location: str) -> Iterator[Stored]:
        Forgetful.answers -= 1
        if Forgetful.answers < 0:
            raise Unavailable("the store is away")
        return super().list(location)


class TestByLease:
    def test_who_was_silent_for_a_lease_is_gone(self, storage: LocalStorage, take: Take) -> None:
        first = take(elsewhere())
        with pytest.raises(Unavailable, match=r"process \d+ on other, since .* 300 s .* jobs release job-1"):
            take(Holder.now())
        silent(storage, claims.LEASE_SECONDS - 60)
        with pytest.raises(Unavailable):
            take(Holder.now())
        first.check()
        silent(storage, claims.LEASE_SECONDS + 60)
        second = take(Holder.now())
        second.check()
        with pytest.raises(Conflict, match="commits nothing more"):
            first.check()
        assert first.lost
        # What the late one does takes nothing from the other.
        first.release()
        second.check()
        second.release()
        assert list(storage.list(storage.root)) == []

    def test_a_heartbeat_keeps_it_and_finds_out(
        self, storage: LocalStorage, folder: str, take: Take, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.01)
        first = take(elsewhere())
        silent(storage, claims.LEASE_SECONDS + 60)
        give_up_at = time.monotonic() + SECONDS_MAX
        while True:
            try:
                (file,) = storage.list(folder)
                if file.modified_at > time.time() - claims.LEASE_SECONDS:
                    break
            except (ValueError, FileNotFoundError):
                pass  # it is being written
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
        with pytest.raises(Unavailable):
            take(Holder.now())
        claims_of = f"{folder}/claim"
        storage.create(f"{claims_of}/000002.json", msgspec.json.encode(Holder.now()))
        while not first.lost:
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
        first.release()

    def test_of_many_that_take_it_over_one_has_it(self, storage: LocalStorage, take: Take) -> None:
        gone = take(elsewhere())
        silent(storage, claims.LEASE_SECONDS + 60)
        held: list[Leased] = []
        together = threading.Barrier(8)

        def compete() -> None:
            together.wait(SECONDS_MAX)
            try:
                held.append(take(elsewhere()))
            except Unavailable:
                return

        threads = [threading.Thread(target=compete) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS_MAX)
        (one,) = held
        one.check()
        with pytest.raises(Conflict):
            gone.check()

    def test_one_that_died_on_this_machine_is_known_to_be_gone(self, take: Take) -> None:
        died = take(msgspec.structs.replace(Holder.now(), started="1"))
        alive = take(Holder.now())
        alive.check()
        with pytest.raises(Conflict):
            died.check()
        with pytest.raises(Unavailable):
            take(Holder.now())

    def test_one_that_is_hidden_from_us_lives(self, take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of processes of others `/proc` may show nothing."""
        shown = take(Holder.now())
        monkeypatch.setattr(claims, "_started", lambda _: "")
        with pytest.raises(Unavailable):
            take(Holder.now())
        shown.check()
        assert msgspec.structs.replace(shown.me, pid=4_194_304).ended()  # beyond the largest there can be

    def test_one_of_the_same_number_is_another(self, storage: LocalStorage, folder: str, take: Take) -> None:
        """A claim that was released by hand and taken again has the number of the one before."""
        first = take(elsewhere())
        storage.remove([file.location for file in storage.list(folder)])
        with pytest.raises(Conflict):
            first.check()
        second = take(elsewhere())
        with pytest.raises(Conflict):
            first.check()
        second.check()

    def test_a_step_of_one_that_was_released_meanwhile_is_not_noted(
        self, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its heartbeat has not found out yet, and another one may have finished the job: its files are gone."""
        monkeypatch.setattr(claims, "is_remote", lambda _: True)

        def released() -> list[bytes]:
            assert release_job(storage, job.id)
            return [b"files of ours"]

        with Job(storage, KIND, INPUTS) as job:
            with pytest.raises(Conflict, match="commits nothing more"):
                job.step("one", released)
            assert not job.remembers("one")

    def test_a_claim_that_the_store_did_not_confirm_is_nobodys(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(claims, "is_remote", lambda _: True)
        storage = Forgetful(str(tmp_path))
        monkeypatch.setattr(Forgetful, "answers", 1)
        with pytest.raises(Unavailable, match="the store is away"):
            Job(storage, KIND, INPUTS)
        monkeypatch.setattr(Forgetful, "answers", 1 << 30)
        with Job(storage, KIND, INPUTS) as job:
            job.check()

    def test_what_nobody_can_read_is_somebody(self, storage: LocalStorage, folder: str, take: Take) -> None:
        storage.write(f"{folder}/claim/000007.json", b"{")
        with pytest.raises(Unavailable, match="another machine"):
            take(Holder.now())
        silent(storage, claims.LEASE_SECONDS + 60)
        take(Holder.now()).check()


def test_nobody_is_claimed_to_run_what_is_not_there(storage: LocalStorage) -> None:
    with pytest.raises(NotFound):
        release_job(storage, "../job")
