"""One backup: what was captured goes into the pool, then its manifest makes it exist."""

import logging
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import profilelake
from profilelake.backup import bucket, record
from profilelake.backup.capture import Captured, Found, captured
from profilelake.backup.fetching import Fetcher, each_at_once
from profilelake.backup.locking import alone
from profilelake.backup.manifest import FORMAT, Manifest, StoredFile, StoredTable
from profilelake.backup.places import Place, place_at
from profilelake.backup.pool import Contents
from profilelake.directory_format import FORMAT as DIRECTORY_FORMAT
from profilelake.errors import Conflict, Corrupt, Invalid, Unavailable
from profilelake.lake.files import is_remote
from profilelake.lake.place import LakePlace
from profilelake.ops.failpoints import reach
from profilelake.settings import Layout, Settings
from profilelake.workspaces.identifier_key import key_fingerprint

LOCK: Final = "backup.lock"
STAGING: Final = "backup"
_MAKING: Final = "making"
_NOTES: Final = "fetched.jsonl"

_log = logging.getLogger(__name__)


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


def take(layout: Layout, place: str, workspaces: Sequence[str], now: int, options: Options) -> Backup:
    """Back a data directory up to `place`, a folder or `s3://bucket/prefix`, whether a server runs on it or not.

    Every event acknowledged before the call is in the backup. Collecting, processing and reading go on.
    `now` is in microseconds.

    Raises:
        Conflict: another backup is being made, or `place` holds something else.
        Unavailable: the disk is full, the object store does not answer, or the directory changes too fast to be looked at.
        NotFound: the identifier key is gone.
    """
    if options.keep < 0:
        raise Invalid(f"backing up with --keep {options.keep}: give 1 or more, or 0 for all")
    kept_in = place_at(place, Settings.load(layout.directory, os.environ).backup)
    _refuse_inside(layout, kept_in.name)
    if options.link and is_remote(place):
        raise Invalid(f"backing up to {place} with --link: only folders share files; leave it out")
    fingerprint = key_fingerprint(layout.secrets)
    beside = kept_in.beside(layout.run)
    with (
        alone(layout.run / LOCK, f"backing up {layout.directory}"),
        kept_in.begun(layout.run, str(layout.directory.absolute()), _time(now)),
    ):
        earlier = _last(kept_in)
        if earlier is not None and earlier.key_fingerprint != fingerprint:
            raise Conflict(
                f"backing up to {place}: it holds backups of another installation, {earlier.directory}; "
                "name another folder or prefix"
            )
        # A copy of the state that a killed backup into a bucket left here; this one may go to a folder.
        shutil.rmtree(layout.run / bucket.STAGING / _MAKING, ignore_errors=True)
        pool = kept_in.pool
        fetcher = Fetcher(pool, beside / _NOTES, earlier)
        with captured(layout, layout.run / STAGING, beside / _MAKING, workspaces, fetcher.fetch) as found:
            stored, new_files, new_bytes = _store(pool, found, earlier, options)
            stored += fetcher.stored(found.distant)
            pool.sync()
            reach("backup.stored")
            manifest = _manifest(layout, found, stored, now, fingerprint, options)
        id = kept_in.add(manifest)
        reach("backup.added")
        fetcher.forget()
        _remember(layout, kept_in, id, now, fingerprint, options)
        removed = _thin_out(kept_in, id, options.keep)
    return Backup(
        id=id,
        files=len(manifest.files),
        bytes=manifest.bytes(),
        new_files=new_files + fetcher.new_files,
        new_bytes=new_bytes + fetcher.new_bytes,
        events=sum(manifest.accepted.values()),
        removed=tuple(removed),
    )


def _refuse_inside(layout: Layout, place: str) -> None:
    """Refuse a place that would be part of what is backed up, or sweep it away, or be swept away with it."""
    if not is_remote(place):
        if Path(place).resolve().is_relative_to(layout.directory.resolve()):
            raise Invalid(f"backing up to {place}: it is inside of the data directory; name another place")
        return
    lake = LakePlace.of(layout, os.environ)
    backup = Settings.load(layout.directory, os.environ).backup
    same_store = lake.storage.endpoint.rstrip("/") == backup.endpoint.rstrip("/")
    warehouse = lake.warehouse
    one, other = f"{place.rstrip('/')}/", f"{warehouse.rstrip('/')}/"
    if same_store and (one.startswith(other) or other.startswith(one)):
        raise Invalid(
            f"backing up to {place}: it and the tables, in {warehouse}, lie in one another; name another prefix"
        )


def _last(place: Place) -> Manifest | None:
    """Return the newest backup that can be read: one that is damaged must not prevent the next, which replaces it."""
    for id in reversed(place.ids()):
        try:
            return place.load(id)[1]
        except Corrupt as error:
            _log.warning("%s; this one is made without what that names", error)
    return None


def _thin_out(place: Place, id: str, keep: int) -> list[str]:
    try:
        return place.thin_out(keep)
    except (Unavailable, Corrupt) as error:
        # What a damaged manifest names is not known, so nothing is removed as long as that backup is there.
        raise type(error)(f"backup {id} is made; removing what is not needed any more: {error}") from error


def _store(
    pool: Contents, found: Captured, earlier: Manifest | None, options: Options
) -> tuple[list[StoredFile], int, int]:
    known = {(f.path, f.bytes, f.seen): f.sha256 for f in earlier.files if f.seen} if earlier else {}
    with_secrets = options.with_key and options.key_to is None
    files = [*found.files, *(found.secrets if with_secrets else ())]
    stored: dict[int, StoredFile] = {}
    added: dict[str, int] = {}
    lock = threading.Lock()

    def store(numbered: tuple[int, Found]) -> None:
        number, file = numbered
        seen = _seen(file)
        sha256 = known.get((file.path, file.bytes, seen), "") if seen else ""
        new = False
        if not sha256 or not pool.holds(sha256, file.bytes):
            sha256, new = _add(pool, file, link=options.link)
        with lock:
            stored[number] = StoredFile(file.path, file.bytes, sha256, seen)
            if new:
                added[sha256] = file.bytes

    each_at_once(enumerate(files), store, pool.at_once)
    if options.key_to is not None:
        _write_apart(found.secrets, options.key_to)
    return [stored[number] for number in range(len(files))], len(added), sum(added.values())


def _seen(file: Found) -> tuple[int, ...]:
    """Return what tells a file that never changes from another one of its name."""
    if not file.lasting:
        return ()
    status = file.source.stat()
    return (status.st_dev, status.st_ino, status.st_mtime_ns)


def _add(pool: Contents, file: Found, *, link: bool) -> tuple[str, bool]:
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
    return Manifest(
        format=FORMAT,
        created_at=_time(now),
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


def _time(now: int) -> str:
    return datetime.fromtimestamp(now / 1e6, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _remember(layout: Layout, place: Place, id: str, now: int, fingerprint: str, options: Options) -> None:
    made = record.Made(now, _where(place), id, fingerprint)
    before = record.load(layout.backups)
    with_key = before.with_key
    if options.key_to is not None:
        with_key = record.Made(now, str(options.key_to.absolute()), id, fingerprint)
    elif options.with_key:
        with_key = made
    record.store(layout.backups, record.Record(made, with_key))


def _where(place: Place) -> str:
    return place.name if is_remote(place.name) else str(Path(place.name).absolute())
