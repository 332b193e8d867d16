"""One backup: what was captured goes into the pool, then its manifest makes it exist."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import profilelake
from profilelake.backup import record
from profilelake.backup.capture import Captured, Found, captured
from profilelake.backup.fetching import Fetcher
from profilelake.backup.manifest import FORMAT, MARKER, BackupPlace, Manifest, StoredFile, StoredTable
from profilelake.backup.pool import Pool
from profilelake.directory_format import FORMAT as DIRECTORY_FORMAT
from profilelake.errors import Conflict, Invalid
from profilelake.ops.failpoints import reach
from profilelake.settings import Layout
from profilelake.workspaces.identifier_key import key_fingerprint

LOCK: Final = "backup.lock"
STAGING: Final = "backup"
_MAKING: Final = "making"
_NOTES: Final = "fetched.jsonl"


@dataclass(frozen=True, slots=True)
class Options:
    """How a backup is made.

    The identifier key, and what else is secret, goes with it, or into the folder `key_to`, or nowhere.
    With `link` files that never change get a second name instead of being copied, where `place` is on
    the same file system. `keep` is how many backups remain, 0 for all.
    """

    with_key: bool = True
    key_to: Path | None = None
    link: bool = False
    keep: int = 0


@dataclass(frozen=True, slots=True)
class Backup:
    """What was made. Bytes and files are those of the whole backup; the new ones were not there before."""

    id: str
    files: int
    bytes: int
    new_files: int
    new_bytes: int
    events: int
    removed: tuple[str, ...]


def take(layout: Layout, place: Path, workspaces: Sequence[str], now: int, options: Options) -> Backup:
    """Back a data directory up to `place`, whether a server runs on it or not.

    Every event acknowledged before the call is in the backup. Collecting, processing and reading go on.
    `now` is in microseconds.

    Raises:
        Conflict: another backup is being made, or `place` holds something else.
        Unavailable: the disk is full, or the directory changes too fast to be looked at.
        NotFound: the identifier key is gone.
    """
    if options.keep < 0:
        raise Invalid(f"backing up with --keep {options.keep}: give 1 or more, or 0 for all")
    if place.absolute().is_relative_to(layout.directory.absolute()):
        raise Invalid(f"backing up to {place}: it is inside of the data directory; name another place")
    fingerprint = key_fingerprint(layout.secrets)
    kept_in = BackupPlace(place)
    kept_in.create()
    with _alone(layout.run / LOCK, f"backing up {layout.directory}"), _alone(place / MARKER, str(place)):
        earlier = _last(kept_in)
        if earlier is not None and earlier.key_fingerprint != fingerprint:
            raise Conflict(
                f"backing up to {place}: it holds backups of another installation, {earlier.directory}; "
                "name another folder"
            )
        pool = Pool(place)
        # All writers hold the lock of the place, so what is unfinished there is of one that was killed.
        pool.sweep_unfinished()
        kept_in.sweep_unfinished()
        fetcher = Fetcher(pool, place / _NOTES, earlier)
        with captured(layout, layout.run / STAGING, place / _MAKING, workspaces, fetcher.fetch) as found:
            stored, new_files, new_bytes = _store(pool, found, earlier, options)
            stored += fetcher.stored(found.distant)
            pool.sync()
            reach("backup.stored")
            manifest = _manifest(layout, found, stored, now, fingerprint, options)
        id = kept_in.add(manifest)
        reach("backup.added")
        fetcher.forget()
        removed = _thin_out(kept_in, pool, options.keep)
    _remember(layout, place, id, now, fingerprint, options)
    return Backup(
        id=id,
        files=len(manifest.files),
        bytes=manifest.bytes(),
        new_files=new_files + fetcher.new_files,
        new_bytes=new_bytes + fetcher.new_bytes,
        events=sum(manifest.accepted.values()),
        removed=tuple(removed),
    )


def _last(place: BackupPlace) -> Manifest | None:
    return place.load()[1] if place.ids() else None


def _store(
    pool: Pool, found: Captured, earlier: Manifest | None, options: Options
) -> tuple[list[StoredFile], int, int]:
    known = {(f.path, f.bytes, f.seen): f.sha256 for f in earlier.files if f.seen} if earlier else {}
    stored: list[StoredFile] = []
    new_files = new_bytes = 0
    with_secrets = options.with_key and options.key_to is None
    for file in [*found.files, *(found.secrets if with_secrets else ())]:
        seen = _seen(file)
        sha256 = known.get((file.path, file.bytes, seen), "") if seen else ""
        if not sha256 or not pool.holds(sha256, file.bytes):
            sha256, new = _add(pool, file, link=options.link)
            new_files += new
            new_bytes += file.bytes if new else 0
        stored.append(StoredFile(file.path, file.bytes, sha256, seen))
    if options.key_to is not None:
        _write_apart(found.secrets, options.key_to)
    return stored, new_files, new_bytes


def _seen(file: Found) -> tuple[int, ...]:
    """Return what tells a file that never changes from another one of its name."""
    if not file.lasting:
        return ()
    status = file.source.stat()
    return (status.st_dev, status.st_ino, status.st_mtime_ns)


def _add(pool: Pool, file: Found, *, link: bool) -> tuple[str, bool]:
    if file.made:
        return pool.take(file.source)
    return pool.add(file.source, file.bytes, link=link and file.lasting)


def _write_apart(secrets: Sequence[Found], folder: Path) -> None:
    """Write the secrets into a folder of their own, for the owner only; one that is there must be the same."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in secrets:
        target = folder / file.path
        content = file.source.read_bytes()
        if target.exists() and target.read_bytes() != content and Path(file.path).parts[0] == "secrets":
            raise Conflict(
                f"writing the identifier key to {folder}: another one is there; name another folder"
            )
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as sink:
            sink.write(content)
            sink.flush()
            os.fsync(sink.fileno())


def _manifest(
    layout: Layout,
    found: Captured,
    stored: list[StoredFile],
    now: int,
    fingerprint: str,
    options: Options,
) -> Manifest:
    at = datetime.fromtimestamp(now / 1e6, UTC).isoformat(timespec="microseconds")
    return Manifest(
        format=FORMAT,
        created_at=at.replace("+00:00", "Z"),
        program=profilelake.__version__,
        directory_format=DIRECTORY_FORMAT,
        directory=str(layout.directory.absolute()),
        key_fingerprint=fingerprint,
        with_key=options.with_key and options.key_to is None,
        standing=found.standing,
        accepted=found.accepted,
        tables=[
            StoredTable(
                namespace,
                name,
                table.location,
                f"{layout.warehouse.name}/{namespace}/{name}/{table.metadata_file.below}",
                table.snapshots,
            )
            for namespace, name, table in found.tables
        ],
        files=stored,
    )


def _thin_out(place: BackupPlace, pool: Pool, keep: int) -> list[str]:
    """Remove the oldest backups beyond the number to keep, and every content that no backup names."""
    ids = place.ids()
    going = ids[:-keep] if keep else []
    for id in going:
        place.remove(id)
    if going:
        reach("backup.thinned")
        pool.sweep({file.sha256 for id in place.ids() for file in place.load(id)[1].files})
    return going


def _remember(layout: Layout, place: Path, id: str, now: int, fingerprint: str, options: Options) -> None:
    made = record.Made(now, str(place.absolute()), id, fingerprint)
    before = record.load(layout.backups)
    with_key = before.with_key
    if options.key_to is not None:
        with_key = record.Made(now, str(options.key_to.absolute()), id, fingerprint)
    elif options.with_key:
        with_key = made
    record.store(layout.backups, record.Record(made, with_key))


@contextmanager
def _alone(path: Path, doing: str) -> Iterator[None]:
    """Hold a file's lock, so that two backups do not take away each other's files."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"{doing}: another backup is being made; wait for it") from error
        yield
    finally:
        os.close(descriptor)
