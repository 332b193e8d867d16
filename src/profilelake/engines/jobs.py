"""What a long job has done so far, so that a driver that died goes on where it was.

A job is named by what goes into it: the same command on the same tables is the same job. The answers of
each finished step lie beside the files of its tasks, on the storage of the lake.
"""

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from profilelake.errors import NotFound
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
    """One run of a plan over tables as they were at its beginning."""

    def __init__(
        self, storage: Storage, kind: str, inputs: Any, report: Callable[[str], None] = lambda _: None
    ) -> None:
        """Begin a job, or go on with it. `inputs` (anything msgspec writes) decide what it computes."""
        self.storage = storage
        said = msgspec.json.encode([kind, inputs], order="sorted")
        self.id = f"{kind}-{hashlib.sha256(said).hexdigest()[:20]}"
        self._folder = f"{storage.root}/{FOLDER}/{self.id}"
        self._report = report
        self.seconds: dict[str, float] = {}
        """What each step took, also where an earlier run did it."""
        storage.create(f"{self._folder}/job.json", said)

    def folder(self, step: str) -> str:
        """Return where the tasks of a step put their files."""
        return f"{self._folder}/{step}"

    def step(self, name: str, run: Callable[[], Sequence[bytes] | dict[int, bytes]]) -> dict[int, bytes]:
        """Return the answers of a step by unit or part: those that were remembered, else those of `run`."""
        place = f"{self._folder}/{name}/done.msgpack"
        if self.storage.size(place) is not None:
            done = msgspec.msgpack.decode(self.storage.read(place), type=Step)
            self._report(f"{name}: done before")
        else:
            began = time.monotonic()
            found = run()
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

    def finish(self) -> None:
        """Remove all files of the job: what it made is committed."""
        _remove(self.storage, [file.location for file in self.storage.list(self._folder)])


def known(storage: Storage, kind: str) -> list[Any]:
    """Return the inputs of the jobs of a kind that were begun and not finished, as `Job` takes them."""
    found = []
    for file in storage.list(f"{storage.root}/{FOLDER}"):
        if file.location.endswith("/job.json"):
            begun, inputs = msgspec.json.decode(storage.read(file.location))
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
        steps = tuple(
            (
                file.location.split("/")[-2],
                msgspec.msgpack.decode(storage.read(file.location), type=Step).seconds,
            )
            for file in done
        )
        touched_at = max(file.modified_at for file in files)
        found.append(Known(id, steps, len(files), sum(file.bytes for file in files), touched_at))
    return sorted(found, key=lambda job: (-job.touched_at, job.id))


def remove_job(storage: Storage, id: str) -> int:
    """Forget what a job has done, and return how many files went. Raises NotFound where there is no such job."""
    if not _ID.fullmatch(id):
        raise NotFound(f"removing job {id[:80]!r}: that is no name of a job; profilelake engine jobs list")
    files = [file.location for file in storage.list(f"{storage.root}/{FOLDER}/{id}")]
    if not files:
        raise NotFound(f"removing job {id}: there is no such job; profilelake engine jobs list")
    _remove(storage, files)
    return len(files)


def sweep_jobs(storage: Storage, older_than_seconds: float, now_seconds: float) -> list[str]:
    """Forget the jobs that nothing was written for so long, and return which."""
    old = [job.id for job in known_jobs(storage) if job.touched_at < now_seconds - older_than_seconds]
    for id in old:
        remove_job(storage, id)
    return old


def _remove(storage: Storage, files: Sequence[str]) -> None:
    # The record of a step goes before its files, so that nothing remembered is missing.
    storage.remove([file for file in files if file.endswith("/done.msgpack")])
    storage.remove([file for file in files if not file.endswith("/done.msgpack")])
