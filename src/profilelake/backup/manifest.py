"""What a backup says of itself: one JSON file, whose name holds its own checksum."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from profilelake.backup.locking import alone
from profilelake.backup.pool import Pool
from profilelake.directory_format import sync_directory
from profilelake.errors import Conflict, Corrupt, NotFound
from profilelake.ops.failpoints import reach

FORMAT: Final = 1
"""Version of the place backups are kept in and of their manifests."""
MARKER: Final = "PROFILELAKE-BACKUPS"
"""The file that says that a folder is a place for backups."""
_FOLDER: Final = "backups"
_UNFINISHED: Final = ".new"
_DIGEST_CHARACTERS: Final = 16


class StoredFile(msgspec.Struct, frozen=True):
    """One file: its path below the data directory, its size and SHA-256, and how its source looked.

    `seen` is device, inode and time of change of the source: as long as they are the same the next
    backup need not read it again. Empty where the content was made for the backup.
    """

    path: str
    bytes: int
    sha256: str
    seen: tuple[int, ...] = ()


class StoredTable(msgspec.Struct, frozen=True):
    """One table: its folder as its metadata spell it, its metadata file below the data directory, and the
    snapshots whose files are here."""

    namespace: str
    name: str
    location: str
    metadata_file: str
    snapshots: tuple[int, ...]


class Standing(msgspec.Struct, frozen=True):
    """Where a workspace stood: see `pipeline.progress`. Conservation: `totals` sum up to the events of
    `vector`."""

    workspace: str
    epoch: str
    sequence: int
    vector: dict[str, tuple[int, int]]
    totals: dict[str, int]
    published: dict[str, tuple[int, int]]


class Manifest(msgspec.Struct, frozen=True):
    """All that is known of a backup. `accepted` counts, by log, the events that it holds or accounts for.

    `key_fingerprint` tells which identifier key the data were hashed under; `with_key` whether it is here.
    """

    format: int
    created_at: str
    program: str
    directory_format: int
    directory: str
    key_fingerprint: str
    with_key: bool
    standing: list[Standing]
    accepted: dict[str, int]
    tables: list[StoredTable]
    files: list[StoredFile]

    def bytes(self) -> int:
        """Return how much the files of the backup hold together."""
        return sum(file.bytes for file in self.files)


class Summary(msgspec.Struct, frozen=True):
    """What a backup is in short."""

    id: str
    created_at: str
    events: int
    files: int
    bytes: int
    with_key: bool
    program: str
    directory: str


def summary_of(id: str, manifest: Manifest) -> Summary:
    """Return what a backup is in short."""
    return Summary(
        id=id,
        created_at=manifest.created_at,
        events=sum(manifest.accepted.values()),
        files=len(manifest.files),
        bytes=manifest.bytes(),
        with_key=manifest.with_key,
        program=manifest.program,
        directory=manifest.directory,
    )


def chosen_of(ids: Sequence[str], id: str, place: object) -> str:
    """Return the backup that is named, or the newest of `ids`.

    Raises:
        NotFound: there is none (of that name).
    """
    chosen = id or (ids[-1] if ids else "")
    if chosen not in ids:
        known = f"; there are {', '.join(ids[-5:])}" if ids else ""
        raise NotFound(f"looking for backup {id or 'any'} in {place}: there is none{known}")
    return chosen


class BackupPlace:
    """A folder of backups: manifests, and beside them the pool."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self.pool = Pool(path)

    def beside(self, run: Path) -> Path:  # noqa: ARG002 - where contents lie there is room for what will be some
        """Return the folder of this machine for what is made for a backup."""
        return self.path

    @contextmanager
    def begun(self, run: Path, directory: str, at: str) -> Iterator[None]:  # noqa: ARG002 - the lock says who
        """Have the place to oneself, made if need be. Raises Conflict as `create`, and where another backup is being made."""
        self.create()
        with alone(self.path / MARKER, self.name):
            # All writers hold the lock, so what is unfinished there is of one that was killed.
            self.pool.sweep_unfinished()
            self.sweep_unfinished()
            yield

    def create(self) -> None:
        """Make the folder, for its owner only, or check that it is such a place.

        Raises:
            Conflict: it is something else, or of a newer program.
        """
        if not (self.path / MARKER).exists():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise Conflict(f"backing up to {self.path}: there are other things; name an empty folder")
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.path / _FOLDER).mkdir(mode=0o700, exist_ok=True)
            (self.path / MARKER).write_text(f"{FORMAT}\n")
        self.check()

    def check(self) -> None:
        """Refuse a folder that is no place for backups.

        Raises:
            NotFound: there are no backups there.
            Conflict: a newer program made it.
        """
        try:
            found = (self.path / MARKER).read_text(errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(
                f"looking for backups in {self.path}: none were made there; "
                f"make one: profilelake backup {self.path}"
            ) from error
        if found != str(FORMAT):
            raise Conflict(
                f"looking for backups in {self.path}: format {found[:20]!r}, this program reads {FORMAT}; "
                "upgrade profilelake: pip install --upgrade profilelake"
            )

    def ids(self) -> list[str]:
        """Return the ids of all backups, oldest first."""
        return sorted(path.stem for path in (self.path / _FOLDER).glob("*.json"))

    def load(self, id: str = "") -> tuple[str, Manifest]:
        """Return a backup, the newest unless another is named.

        Raises:
            NotFound: there is none (of that name).
            Corrupt: its manifest is damaged.
        """
        chosen = chosen_of(self.ids(), id, self.path)
        path = self._path(chosen)
        try:
            data = path.read_bytes()
            if _digest(data) != chosen.rpartition("-")[2]:
                raise ValueError("its checksum differs")
            return chosen, msgspec.json.decode(data, type=Manifest)
        except (OSError, ValueError, msgspec.ValidationError) as error:
            raise Corrupt(f"reading the manifest {path}: {error}; take another backup") from error

    def summaries(self) -> Iterator[Summary]:
        """Yield what each backup is in short, oldest first."""
        for id in self.ids():
            yield summary_of(*self.load(id))

    def add(self, manifest: Manifest) -> str:
        """Make a backup exist, whose files are all durable; return its id."""
        data = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        id = f"{manifest.created_at.replace('-', '').replace(':', '')}-{_digest(data)}"
        path = self._path(id)
        unfinished = path.with_suffix(_UNFINISHED)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as sink:
            sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        reach("backup.described")
        unfinished.rename(path)
        sync_directory(path.parent)
        return id

    def sweep_unfinished(self) -> None:
        """Remove manifests that killed backups did not finish: for who holds the lock of the place."""
        for path in (self.path / _FOLDER).glob(f"*{_UNFINISHED}"):
            path.unlink()

    def remove(self, id: str) -> None:
        """Make a backup exist no more; its files stay until the pool is swept."""
        self._path(id).unlink(missing_ok=True)
        sync_directory(self.path / _FOLDER)

    def thin_out(self, keep: int) -> list[str]:
        """Remove the oldest backups beyond the number to keep, and every content that no backup names."""
        ids = self.ids()
        going = ids[:-keep] if keep else []
        for id in going:
            self.remove(id)
        if going:
            reach("backup.thinned")
            self.pool.sweep({file.sha256 for id in self.ids() for file in self.load(id)[1].files})
        return going

    def _path(self, id: str) -> Path:
        return self.path / _FOLDER / f"{id}.json"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGEST_CHARACTERS]
