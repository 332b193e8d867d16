"""What a long job has done so far, so that a driver that died goes on where it was.

A job is named by what goes into it: the same command on the same tables is the same job. The answers of
each finished step lie beside the files of its tasks, on the storage of the lake. One process runs a job at a
time (`engines.claims`).
"""

import hashlib
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

import msgspec

from profilelake.engines import claims
from profilelake.engines.claims import Claim, Holder
from profilelake.errors import Conflict, Corrupt, NotFound, Unavailable
from profilelake.lake.storage import Storage, Stored
from profilelake.ops.failpoints import reach

FOLDER: Final = "_jobs"
"""Below the root of the warehouse; the names of namespaces begin with `ws_`."""


_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Step(msgspec.Struct, frozen=True):
    """A finished step: what its tasks answered, by unit or part, and what it took."""

    answers: list[tuple[int, bytes]]
    seconds: float


class Job:
    """One run of a plan over tables as they were at its beginning. In a `with` statement it is left at the end of that."""

    def __init__(
        self, storage: Storage, kind: str, inputs: Any, report: Callable[[str], None] = lambda _: None
    ) -> None:
        """Begin a job, or go on with it. `inputs` (anything msgspec writes) decide what it computes.

        Raises:
            Unavailable: another process runs it, or the storage does not answer.
        """
        self.storage = storage
        said = msgspec.json.encode([kind, inputs], order="sorted")
        self.id = f"{kind}-{hashlib.sha256(said).hexdigest()[:20]}"
        self._folder = _folder(storage, self.id)
        self._report = report
        self.seconds: dict[str, float] = {}
        """What each step took, also where an earlier run did it."""
        self._claim: Claim | None = _taken(storage, self._folder)
        try:
            storage.create(f"{self._folder}/job.json", said)
        except BaseException:
            self.leave()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def folder(self, step: str) -> str:
        """Return where the tasks of a step put their files."""
        return f"{self._folder}/{step}"

    def step(self, name: str, run: Callable[[], Sequence[bytes] | dict[int, bytes]]) -> dict[int, bytes]:
        """Return the answers of a step by unit or part: those that were remembered, else those of `run`.

        Raises:
            Conflict: another process has the job by now.
        """
        place = f"{self._folder}/{name}/done.msgpack"
        if self.storage.size(place) is not None:
            done = msgspec.msgpack.decode(self.storage.read(place), type=Step)
            self._report(f"{name}: done before")
        else:
            began = time.monotonic()
            try:
                found = run()
            except (Corrupt, FileNotFoundError):
                self.check()  # whoever has the job now may have removed the files
                raise
            # Whoever has the job now may have finished it: a record of ours would speak of files that are gone.
            self.check()
            answers = found.items() if isinstance(found, dict) else enumerate(found)
            done = Step(sorted(answers), round(time.monotonic() - began, 3))
            reach(f"job.{name}.ran")
            self.storage.write(place, msgspec.msgpack.encode(done))
            self._report(f"{name}: {done.seconds:.1f} s")
            reach(f"job.{name}.done")
        self.seconds[name] = done.seconds
        return dict(done.answers)

    def remembers(self, name: str) -> bool:
        """Tell whether a step has been done."""
        return self.storage.size(f"{self._folder}/{name}/done.msgpack") is not None

    def check(self) -> None:
        """See that this process still runs the job: to be asked right before each commit.

        Raises:
            Conflict: another one does by now, or it was left.
            Unavailable: the storage does not answer.
        """
        if self._claim is None:
            raise Conflict(f"running job {self.id}: it was left; begin it again")
        self._claim.check()

    def finish(self) -> None:
        """Remove all files of the job, and leave it: what it made is committed. Those of another process stay."""
        try:
            self.check()
        except Conflict:
            self.leave()
            return
        _remove_files(self.storage, self._folder)
        self.leave()

    def leave(self) -> None:
        """Let others go on with the job."""
        claim, self._claim = self._claim, None
        if claim is not None:
            _left(claim, self._folder)


# ---- claims of this process --------------------------------------------------------------------

_mine: dict[str, tuple[Claim, int]] = {}
"""Claims by the folder of the job, and how many `Job`s of this process stand on each."""
_turn: Final = threading.Lock()


def _taken(storage: Storage, folder: str) -> Claim:
    with _turn:
        held, jobs = _mine.get(folder, (None, 0))
        # A job that failed may not have been left yet; whether its claim is good is asked by `check`.
        claim = held if held is not None and not held.lost else claims.take(storage, folder)
        _mine[folder] = claim, jobs + 1 if claim is held else 1
    return claim


def _left(claim: Claim, folder: str) -> None:
    with _turn:
        held, jobs = _mine.get(folder, (None, 0))
        if held is claim and jobs > 1:
            _mine[folder] = claim, jobs - 1
            return
        if held is claim:
            del _mine[folder]
        # Where another one took its place it is lost, and holds but a file or a thread.
        claim.release()


# ---- jobs that are there -----------------------------------------------------------------------


def known(storage: Storage, kind: str) -> list[Any]:
    """Return the inputs of the jobs of a kind that were begun and not finished, as `Job` takes them."""
    found = []
    for file in storage.list(f"{storage.root}/{FOLDER}"):
        if file.location.endswith("/job.json"):
            try:
                begun, inputs = msgspec.json.decode(storage.read(file.location))
            except FileNotFoundError:
                continue  # finished since
            if begun == kind:
                found.append(inputs)
    return found


class Known(msgspec.Struct, frozen=True):
    """A job that has begun and is not finished."""

    id: str
    steps: tuple[tuple[str, float], ...]
    """Steps that are done, and the seconds each took."""
    files: int
    bytes: int
    touched_at: int
    """When a file of it was last written, in seconds since 1970."""
    holder: Holder | None = None
    """The process that runs it; on an object store that which ran it when last heard of."""


def known_jobs(storage: Storage) -> list[Known]:
    """Return all jobs that have begun and are not finished, that touched last first."""
    jobs: dict[str, list[Stored]] = {}
    for file in storage.list(f"{storage.root}/{FOLDER}"):
        # Storages may name files by their plain path.
        _, _, below = file.location.rpartition(f"/{FOLDER}/")
        jobs.setdefault(below.partition("/")[0], []).append(file)
    found = []
    for id, files in jobs.items():
        done = [file for file in files if file.location.endswith("/done.msgpack")]
        # The order in which steps ended is the order of their records.
        done.sort(key=lambda file: (file.modified_at, file.location))
        try:
            steps = tuple(
                (
                    file.location.split("/")[-2],
                    msgspec.msgpack.decode(storage.read(file.location), type=Step).seconds,
                )
                for file in done
            )
        except FileNotFoundError:
            continue  # finished since
        touched_at = max(file.modified_at for file in files)
        held_by = claims.holder(storage, _folder(storage, id))
        kept = [file for file in files if not claims.is_claim(file.location)]
        found.append(Known(id, steps, len(kept), sum(file.bytes for file in kept), touched_at, held_by))
    return sorted(found, key=lambda job: (-job.touched_at, job.id))


def remove_job(storage: Storage, id: str) -> int:
    """Forget what a job has done, and return how many files went.

    Raises:
        NotFound: there is no such job.
        Unavailable: another process runs it.
    """
    _refuse_unknown(storage, id, "removing")
    folder = _folder(storage, id)
    # Not that of a job of this process, so one that runs here is not removed either.
    claim = claims.take(storage, folder)
    try:
        return _remove_files(storage, folder)
    finally:
        claim.release()


def release_job(storage: Storage, id: str) -> bool:
    """Let others go on with a job whose driver is gone; tell whether anybody had it.

    Raises:
        NotFound: there is no such job.
        Conflict: it lies in a directory, and its driver runs.
    """
    _refuse_unknown(storage, id, "releasing")
    return claims.release(storage, _folder(storage, id))


def sweep_jobs(storage: Storage, older_than_seconds: float, now_seconds: float) -> list[str]:
    """Forget the jobs that nothing was written for so long, but those that run, and return which."""
    gone = []
    for job in known_jobs(storage):
        if job.touched_at < now_seconds - older_than_seconds:
            try:
                remove_job(storage, job.id)
            except (NotFound, Unavailable):
                continue
            gone.append(job.id)
    return gone


def _folder(storage: Storage, id: str) -> str:
    return f"{storage.root}/{FOLDER}/{id}"


def _refuse_unknown(storage: Storage, id: str, doing: str) -> None:
    if not _ID.fullmatch(id):
        raise NotFound(f"{doing} job {id[:80]!r}: that is no name of a job; profilelake engine jobs list")
    if next(iter(storage.list(_folder(storage, id))), None) is None:
        raise NotFound(f"{doing} job {id}: there is no such job; profilelake engine jobs list")


def _remove_files(storage: Storage, folder: str) -> int:
    """Remove the files of a job but its claim, which goes when it is left."""
    files = [file.location for file in storage.list(folder) if not claims.is_claim(file.location)]
    # The record of a step goes before its files, so that nothing remembered is missing.
    storage.remove([file for file in files if file.endswith("/done.msgpack")])
    storage.remove([file for file in files if not file.endswith("/done.msgpack")])
    return len(files)
