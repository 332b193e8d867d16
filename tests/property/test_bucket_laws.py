"""Backups into one bucket, however those who make them are held up, taken for dead and woken again.

Several make backups side by side, each call to the store a step; Hypothesis says whose step is next, and how long it takes. Law:
after every step, every backup that is there has all of its contents. And in the end nothing is in anybody's way, or left.
"""

import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from profilelake.backup import bucket_turns
from profilelake.backup.bucket import BucketPlace
from profilelake.backup.manifest import Manifest, StoredFile
from profilelake.errors import Conflict, NotFound
from profilelake.lake.storage import Storage, Stored

ROOT: Final = "s3://bucket/backups"
PAGE: Final = 3
SECONDS_MAX: Final = 60


@dataclass
class Objects:
    """What a store holds: content and time of each object, and a clock."""

    held: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    now: int = 1_000_000


@dataclass
class Stepped:
    """A storage over these objects; before each request somebody waits for leave to go on."""

    objects: Objects
    step: Callable[[], None]
    root: str = ROOT

    def read(self, location: str) -> bytes:
        self.step()
        if location not in self.objects.held:
            raise FileNotFoundError(location)
        return self.objects.held[location][0]

    def write(self, location: str, content: bytes) -> None:
        self.step()
        self.objects.held[location] = (content, self.objects.now)

    def create(self, location: str, content: bytes) -> bool:
        self.step()
        if location in self.objects.held:
            return False
        self.objects.held[location] = (content, self.objects.now)
        return True

    def send(self, location: str, source: IO[bytes], size: int) -> None:
        self.write(location, source.read(size))

    def size(self, location: str) -> int | None:
        self.step()
        return len(self.objects.held[location][0]) if location in self.objects.held else None

    def list(self, location: str) -> Iterator[Stored]:
        after = ""
        while True:
            self.step()
            names = sorted(
                name for name in self.objects.held if name.startswith(f"{location}/") and name > after
            )
            page = names[:PAGE]
            yield from [
                Stored(name, len(self.objects.held[name][0]), self.objects.held[name][1]) for name in page
            ]
            if len(page) < PAGE:
                return
            after = page[-1]

    def remove(self, locations: Iterable[str]) -> None:
        for location in locations:
            self.step()
            self.objects.held.pop(location, None)

    def input(self, location: str) -> pa.NativeFile:
        return pa.PythonFile(io.BytesIO(self.read(location)), mode="r")

    def copies(self, *_: object) -> bool:
        return False


class Actor:
    """Somebody who makes backups, one step at a time."""

    def __init__(
        self, number: int, objects: Objects, files: list[Path], work: list[tuple[list[int], int]]
    ) -> None:
        self.ended = False
        self.failure: BaseException | None = None
        self._go, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self._storage: Any = Stepped(objects, self._wait)
        self._number, self._files, self._work = number, files, work
        self.made = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._waits.acquire(timeout=SECONDS_MAX)

    def step(self) -> None:
        """Let one request be done."""
        self._go.release()
        assert self._waits.acquire(timeout=SECONDS_MAX)

    def _wait(self) -> None:
        self._waits.release()
        assert self._go.acquire(timeout=SECONDS_MAX)

    def _run(self) -> None:
        try:
            for contents, keep in self._work:
                try:
                    back_up(self._storage, self._files, contents, keep, self._number)
                    self.made += 1
                except (Conflict, NotFound):
                    # Another one is, or was, at work: that is told, and this one may try again.
                    continue
        except BaseException as error:  # noqa: BLE001 - told by the test
            self.failure = error
        self.ended = True
        self._waits.release()


def back_up(storage: Storage, files: list[Path], contents: list[int], keep: int, who: int) -> None:
    kept_in = BucketPlace(storage)
    # Each has a data directory of its own, with a name that it made up.
    with kept_in.begun(files[0].parent / f"run{who}", "/data", "now"):
        stored = []
        for content in contents:
            path = files[content]
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if not kept_in.pool.holds(digest, path.stat().st_size):
                digest, _ = kept_in.pool.add(path, path.stat().st_size)
            stored.append(StoredFile(path.name, path.stat().st_size, digest))
        kept_in.add(Manifest(1, "now", "1", 1, "/data", "key", True, [], {}, [], stored))
        kept_in.thin_out(keep)


def check_whole(objects: Objects) -> None:
    for location, (content, _) in objects.held.items():
        if not location.startswith(f"{ROOT}/backups/") or not content:
            continue
        number = location.rpartition("/")[2]
        document = json.loads(objects.held[f"{ROOT}/manifests/{number}"][0])
        for sha256, at in document["kept"].items():
            assert f"{ROOT}/files/{at:08d}/{sha256}" in objects.held, (location, sha256)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("contents")
    paths = [folder / str(number) for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * (number + 1))
    return paths


WORK = st.lists(
    st.tuples(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(0, 2)), min_size=1, max_size=3
)


@given(
    st.lists(WORK, min_size=1, max_size=3),
    st.lists(
        st.tuples(
            st.integers(0, 2), st.integers(1, 40), st.sampled_from([0, bucket_turns.SILENT_SECONDS + 1])
        ),
        max_size=30,
    ),
)
@example(
    [[([0, 1], 1), ([2], 1)], [([0, 1], 1), ([3], 1)]],
    [(0, 40, 901), (1, 40, 901), (0, 40, 901), (1, 40, 901)],
)
@example([[([0], 0)], [([1], 0)]], [(1, 7, 0), (1, 3, 901)])
def test_every_backup_is_whole_at_every_step(
    files: list[Path],
    work: list[list[tuple[list[int], int]]],
    schedule: list[tuple[int, int, int]],
) -> None:
    objects = Objects()
    actors = [Actor(number, objects, files, each) for number, each in enumerate(work)]
    # In the end everybody gets to its end, the one who waited longest first.
    for who, steps, seconds in [*schedule, *((number, 1_000_000, 0) for number in range(3))]:
        actor = actors[who % len(actors)]
        objects.now += seconds
        for _ in range(steps):
            if actor.ended:
                break
            actor.step()
            check_whole(objects)
    assert all(actor.ended for actor in actors)
    assert [actor.failure for actor in actors if actor.failure is not None] == []
    if len(actors) == 1:
        assert actors[0].made == len(work[0])

    # Who comes then has the place to itself, and leaves nothing that no backup names.
    objects.now += bucket_turns.SILENT_SECONDS + 1
    alone: Any = Stepped(objects, lambda: None)
    back_up(alone, files, [4, 0], 1, 9)
    back_up(alone, files, [4], 1, 9)
    check_whole(objects)
    left = sorted(name for name in objects.held if name.startswith((f"{ROOT}/files/", f"{ROOT}/manifests/")))
    (id,) = BucketPlace(alone).ids()
    assert len(left) == 2, left
    assert left[1] == f"{ROOT}/manifests/{id}.json"
    assert sum(1 for name in objects.held if name.startswith(f"{ROOT}/claims/")) == 1
