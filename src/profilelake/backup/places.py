"""Where backups are kept: a folder, or a prefix of a bucket, by one interface."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from profilelake.backup.bucket import BucketPlace
from profilelake.backup.manifest import MARKER, BackupPlace, Manifest, Summary
from profilelake.backup.pool import Contents
from profilelake.errors import Invalid
from profilelake.lake.files import is_remote
from profilelake.lake.storage import LocalStorage, storage_of
from profilelake.settings import StorageOptions

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]+:/")
_NO_PARTS: Final = ("", ".", "..")


class Place(Protocol):
    """Backups of one installation. A backup is there, whole, or it is not there."""

    @property
    def name(self) -> str:
        """How people name it."""

    @property
    def pool(self) -> Contents:
        """The contents that backups share. What they are is known of those that were loaded, and of what is added."""

    def check(self) -> None:
        """Raise NotFound where no backups were made, Conflict where a newer program made them."""

    def ids(self) -> list[str]:
        """Return the ids of all backups, oldest first."""

    def summaries(self) -> Iterator[Summary]:
        """Yield what each backup is in short, oldest first."""

    def load(self, id: str = "") -> tuple[str, Manifest]:
        """Return a backup, the newest unless another is named. Raises NotFound, Corrupt."""

    def beside(self, run: Path) -> Path:
        """Return the folder of this machine for what is made for a backup; `run` is that of the data directory."""

    def begun(self, run: Path, directory: str, at: str) -> AbstractContextManager[None]:
        """Have the place to oneself, made if need be. Raises Conflict where another backup is being made."""

    def add(self, manifest: Manifest) -> str:
        """Within `begun`: make a backup exist whose contents are all there; return its id."""

    def thin_out(self, keep: int) -> list[str]:
        """Within `begun`: remove the oldest backups beyond a number, and contents that none names; return their ids."""


def place_at(where: str, options: StorageOptions) -> Place:
    """Return the place for backups at a path or `s3://bucket/prefix`. Asks no store yet.

    Raises:
        Invalid: no such kind of place, or what speaks to it is not installed.
    """
    _refuse_host(where)
    if not is_remote(where):
        if _SCHEME.match(where) and not where.startswith("file://"):
            # Else it would be taken for the name of a folder.
            raise Invalid(f"backups in {where}: give a folder, or s3://bucket/prefix, with two slashes")
        path = Path(where.removeprefix("file://"))
        # Somebody may have copied a bucket here.
        return BucketPlace(LocalStorage(str(path.absolute()))) if _copied(path) else BackupPlace(path)
    _, _, below = where.partition("://")
    if not below.strip("/"):
        raise Invalid(f"backups in {where}: give a folder, or s3://bucket/prefix")
    if any(part in _NO_PARTS or not part.isprintable() for part in below.rstrip("/").split("/")[1:]):
        # The client takes no such names of objects.
        raise Invalid(
            f"backups in {where!r}: parts of a prefix are neither empty nor . or .., and have no control characters"
        )
    return BucketPlace(storage_of(where, options))


def _refuse_host(where: str) -> None:
    """Refuse URLs whose part before the path is not what it is taken for."""
    scheme, _, rest = where.partition("://")
    if not rest:
        return
    if "@" in rest.partition("/")[0]:
        # Not repeated: what stands before the @ is mostly a secret, and would go into errors and notes.
        raise Invalid(
            f"backups in {scheme}://…@…: no user or password belongs into it; name the bucket alone, and give the "
            "file that backup.credentials names"
        )
    if scheme == "file" and not rest.startswith("/"):
        raise Invalid(
            f"backups in {where}: give a folder of this machine, file:///folder, with three slashes"
        )


def _copied(path: Path) -> bool:
    try:
        return (path / MARKER).read_text(errors="replace").startswith("objects")
    except OSError:
        return False
