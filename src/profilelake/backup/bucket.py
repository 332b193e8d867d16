"""A place for backups below a prefix of a bucket.

    PREFIX/PROFILELAKE-BACKUPS        version of this layout
    PREFIX/claims/NUMBER.json         who makes, or made, the backup of this number (`bucket_turns`)
    PREFIX/files/NUMBER/SHA-256       contents, below the number of the backup that brought them (`bucket_pool`)
    PREFIX/manifests/NUMBER.json      the manifest, and the number of each content
    PREFIX/backups/NUMBER.json        the backup: what it is in short, and the SHA-256 of its manifest; empty where there is none

A copy of all of it in a folder is such a place too.
"""

import hashlib
import io
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from profilelake.backup.bucket_pool import BucketPool
from profilelake.backup.bucket_turns import Turn, Turns, claim_of, spelt
from profilelake.backup.manifest import MARKER, Manifest, Summary, chosen_of, summary_of
from profilelake.errors import Conflict, Corrupt, Internal, NotFound, Unavailable
from profilelake.lake.storage import Storage
from profilelake.ops.failpoints import reach

FORMAT: Final = "objects 1"
"""What the marker of such a place says."""
SWEEPS_MAX: Final = 3
"""How often what is to go is removed, until the store does not list it any more; what stays is left to the next backup."""
_MANIFESTS: Final = "manifests"
_INSTALLATION: Final = "installation"
STAGING: Final = "backup-objects"
"""The folder below `run` of a data directory for what is made for a backup into a bucket."""

_log = logging.getLogger(__name__)


class _Described(msgspec.Struct, frozen=True):
    """What makes a backup one."""

    summary: Summary
    manifest_sha256: str


class _Kept(msgspec.Struct, frozen=True):
    """Where a backup has its contents: the number of each, by SHA-256."""

    kept: dict[str, int]


class _Document(_Kept, frozen=True):
    manifest: Manifest


T = TypeVar("T", bound=_Kept)


class BucketPlace:
    """Backups of one installation below a prefix of a bucket."""

    def __init__(self, storage: Storage) -> None:
        self.name = storage.root
        self.pool = BucketPool(storage)
        self._storage = storage
        self._turns = Turns(storage)
        self._turn: Turn | None = None

    def check(self) -> None:
        """Refuse what is no place for backups.

        Raises:
            NotFound: there are no backups there.
            Conflict: a newer program made it.
        """
        try:
            found = self._storage.read(self._marker).decode(errors="replace").strip()
        except FileNotFoundError as error:
            raise NotFound(
                f"looking for backups in {self.name}: none were made there; make one: profilelake backup {self.name}"
            ) from error
        if found != FORMAT:
            raise Conflict(
                f"looking for backups in {self.name}: format {found[:20]!r}, this program reads {FORMAT!r}; "
                "upgrade profilelake: pip install --upgrade profilelake"
            )

    def ids(self) -> list[str]:
        """Return the ids of all backups, oldest first."""
        return [spelt(number) for number in self._turns.finished()]

    def summaries(self) -> Iterator[Summary]:
        """Yield what each backup is in short, oldest first, without reading their manifests."""
        for number in self._turns.finished():
            # Another process may have removed it since they were listed.
            with suppress(NotFound):
                yield self._described(number).summary

    def load(self, id: str = "") -> tuple[str, Manifest]:
        """Return a backup, the newest unless another is named.

        Raises:
            NotFound: there is none (of that name).
            Corrupt: its manifest is damaged.
        """
        chosen = chosen_of(self.ids(), id, self.name)
        document = self._document(int(chosen), _Document)
        self.pool.know(document.kept)
        return chosen, document.manifest

    def beside(self, run: Path) -> Path:
        """Return the folder of this machine for what is made for a backup: below that of the data directory."""
        return run / STAGING

    @contextmanager
    def begun(self, run: Path, directory: str, at: str) -> Iterator[None]:
        """Have the place to oneself, as far as others are to wait.

        Raises:
            Conflict: another backup is being made, or there are other things.
        """
        self._create()
        turn = self._turns.take(claim_of(_installation(self.beside(run)), directory, at))
        turn.begin()
        try:
            self.pool.begin(turn.number, turn.last, self._kept_by(turn.last))
            self._turn = turn
            yield
        finally:
            self._turn = None
            turn.end()

    def add(self, manifest: Manifest) -> str:
        """Make a backup exist, whose contents were all sent; return its id.

        Raises:
            Unavailable: the store has not what it acknowledged.
            Conflict: another backup took the turn of this one.
        """
        turn = self._mine()
        lost = self.pool.lacking({(file.sha256, file.bytes) for file in manifest.files})
        if lost:
            turn.refuse_lost()
            raise Unavailable(
                f"backing up to {self.name}: of {len(lost)} contents that were sent, {lost[0]} among them, the store has nothing, or "
                "another size: it loses or cuts off what it acknowledges, or somebody removes objects; see its log and the bucket's "
                "lifecycle rules, then run the same again"
            )
        kept = {file.sha256: self.pool.where(file.sha256) for file in manifest.files}
        content = msgspec.json.encode(_Document(kept, manifest))
        self._storage.send(self._manifest(turn.number), io.BytesIO(content), len(content))
        reach("backup.described")
        described = _Described(summary_of(spelt(turn.number), manifest), hashlib.sha256(content).hexdigest())
        turn.finish(msgspec.json.encode(described))
        return spelt(turn.number)

    def thin_out(self, keep: int) -> list[str]:
        """Remove the oldest backups beyond the number to keep, and every content that no backup names."""
        turn = self._mine()
        finished = self._turns.finished()
        going = finished[:-keep] if keep else []
        for number in going:
            self._turns.remove(number)
        if going:
            reach("backup.thinned")
        remaining = set(finished) - set(going)
        manifests = {
            int(name): stored.location
            for stored in self._storage.list(f"{self.name}/{_MANIFESTS}")
            if (name := stored.location.rpartition("/")[2].removesuffix(".json")).isdecimal()
        }
        stale = [at for at in sorted(manifests) if at <= turn.number and at not in remaining]
        # Of numbers after the last backup only this one can have taken anything. For all others each manifest has to be
        # read, so that is done only where one is to go.
        named = sorted(remaining) if stale else [turn.number]
        kept = {(at, sha256) for number in named for sha256, at in self._document(number, _Kept).kept.items()}
        for _ in range(SWEEPS_MAX):
            if not self.pool.sweep(kept, 1 if stale else turn.last + 1, turn.number):
                # By these the next one knows that there is something to remove, so they go when nothing is left.
                self._storage.remove([manifests[at] for at in stale])
                break
        self._turns.tidy(turn)
        return [spelt(number) for number in going]

    @property
    def _marker(self) -> str:
        return f"{self.name}/{MARKER}"

    def _manifest(self, number: int) -> str:
        return f"{self.name}/{_MANIFESTS}/{spelt(number)}.json"

    def _mine(self) -> Turn:
        if self._turn is None:
            raise Internal(f"backing up to {self.name}: no turn was taken")
        return self._turn

    def _create(self) -> None:
        try:
            self.check()
        except NotFound:
            found = next(iter(self._storage.list(self.name)), None)
            if found is not None and found.location != self._marker:
                raise Conflict(
                    f"backing up to {self.name}: there are other things, {found.location} among them; name an empty prefix"
                ) from None
            self._storage.create(self._marker, f"{FORMAT}\n".encode())
            self.check()
        if self._storage.create(self._marker, f"{FORMAT}\n".encode()):
            # Turns would not be one after the other, and two backups would remove each other's contents.
            raise Unavailable(
                f"backing up to {self.name}: the store lets a second writer win who asked to write only what is not there "
                "(If-None-Match); upgrade the store, or back up to another one"
            )

    def _kept_by(self, last: int) -> dict[str, int]:
        """Return what the last backup has; nothing where its manifest is damaged.

        What an older one has is of no use then: whoever made the last one may still be removing that.
        """
        try:
            return self._document(last, _Kept).kept if last else {}
        except Corrupt as error:
            _log.warning("%s; all contents are sent again", error)
            return {}

    def _described(self, number: int) -> _Described:
        location = self._turns.finished_location(number)
        try:
            content = self._turns.describes(number)
        except FileNotFoundError:
            content = b""
        if not content:
            raise NotFound(f"reading {location}: the backup was removed meanwhile; name another one")
        try:
            return msgspec.json.decode(content, type=_Described)
        except (ValueError, msgspec.ValidationError) as error:
            raise Corrupt(f"reading {location}: {error}; take another backup") from error

    def _document(self, number: int, kind: type[T]) -> T:
        location, described = self._manifest(number), self._described(number)
        try:
            data = self._storage.read(location)
            if hashlib.sha256(data).hexdigest() != described.manifest_sha256:
                raise ValueError("its checksum differs")
            return msgspec.json.decode(data, type=kind)
        except FileNotFoundError as error:
            self._described(number)  # else it went with its backup
            raise Corrupt(f"reading the manifest {location}: it is missing; take another backup") from error
        except (ValueError, msgspec.ValidationError) as error:
            raise Corrupt(f"reading the manifest {location}: {error}; take another backup") from error


def _installation(folder: Path) -> str:
    """Return the name that a data directory made up for itself, to know its own claims by."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / _INSTALLATION
    name = path.read_text() if path.exists() else ""
    if not name:
        name = uuid.uuid4().hex
        path.write_text(name)
    return name
