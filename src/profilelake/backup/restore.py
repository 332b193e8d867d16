"""A data directory made again from a backup, in a new place.

Who may send and read, and who is suppressed, is taken as it was last known, not as it was at the time of
the backup: nobody comes back who asked to be left out since, and no token that was revoked. Tables are
made to lie where they are now. The directory becomes one with the last step, so what was cut short is
never taken for a whole one.
"""

import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from profilelake.backup.manifest import BackupPlace, Manifest, StoredFile
from profilelake.backup.pool import Pool, sync_file_system
from profilelake.directory_format import FORMAT, DirectoryFormat, write_format
from profilelake.errors import Conflict, Corrupt, Invalid, NotFound, Unavailable
from profilelake.lake.catalog import register_tables
from profilelake.lake.relocate import relocate
from profilelake.ops.failpoints import reach
from profilelake.settings import Layout
from profilelake.workspaces.control import Control
from profilelake.workspaces.identifier_key import IDENTIFIER_KEY_FILE, key_fingerprint

ROOM_SHARE: Final = 1.05
"""How much more than its files a restored directory needs while it is made."""
_BUSY_SECONDS: Final = 30.0

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What is restored, and from where what the backup does not have.

    `id` names a backup, the newest where it is empty. `key_from` is a folder with the identifier key.
    `control_from` is a data directory, or a control database, that knows better than any backup who may
    send and read and who is suppressed.
    """

    id: str = ""
    key_from: Path | None = None
    control_from: Path | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """What was made. `suppressed` counts who is on the list; `suppressed_since` those the backup itself does
    not know of, `control_from` where they are from."""

    id: str
    created_at: str
    files: int
    bytes: int
    tables: int
    events: int
    suppressed: int
    suppressed_since: int
    control_from: str


def check(place: Path, id: str = "", report: Report = lambda _: None) -> tuple[str, Manifest]:
    """Return a backup all of whose files are what they should be.

    Raises:
        NotFound: there is none.
        Corrupt: files are damaged or missing; some are named.
    """
    kept_in = BackupPlace(place)
    kept_in.check()
    chosen, manifest = kept_in.load(id)
    report(f"checking {len(manifest.files)} files of backup {chosen}")
    damaged = set(Pool(place).damaged({(file.sha256, file.bytes) for file in manifest.files}))
    if damaged:
        paths = [file.path for file in manifest.files if file.sha256 in damaged]
        raise Corrupt(
            f"checking backup {chosen} in {place}: {len(paths)} of {len(manifest.files)} files are damaged or "
            f"missing, {', '.join(paths[:3])} among them; restore another backup, there are "
            f"{', '.join(other for other in kept_in.ids() if other != chosen) or 'no others'}"
        )
    return chosen, manifest


def restore(place: Path, target: Layout, options: Options, report: Report = lambda _: None) -> Restored:
    """Make a data directory in an empty place from a backup.

    Raises:
        Conflict: there is something in the place, or a newer program made the backup.
        Invalid: the identifier key is not given, or it is another one.
        NotFound, Corrupt: as `check`.
        Unavailable: there is not enough room.
    """
    _check_target(target.directory)
    kept_in = BackupPlace(place)
    kept_in.check()
    chosen, manifest = kept_in.load(options.id)
    if manifest.directory_format > FORMAT:
        raise Conflict(
            f"restoring backup {chosen}: it is of format {manifest.directory_format}, this program reads "
            f"{FORMAT}; upgrade profilelake: pip install --upgrade profilelake"
        )
    key = _key_file(manifest, options.key_from)
    control, known_from = _newest_control(kept_in, options.control_from, manifest.key_fingerprint)
    _check_room(target.directory, manifest)
    places = [(file, _below(target.directory, file)) for file in manifest.files]
    check(place, chosen, report)
    report(f"copying {manifest.bytes():,} bytes to {target.directory}")
    pool = Pool(place)
    target.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in (target.run, target.secrets):
        path.mkdir(mode=0o700)
    for file, path in places:
        pool.give(file.sha256, file.bytes, path)
    reach("restore.copied")
    if key is not None:
        _give_secrets(key, target)
    suppressed = _suppressed(target.control)
    _replace_control(target, control, pool)
    report(f"moving {len(manifest.tables)} tables")
    _move_tables(target, manifest)
    reach("restore.moved")
    with Control.open(target.control, secrets.token_bytes) as database:
        database.bind_identifier_key(target.secrets)
    sync_file_system(target.directory)
    write_format(target.directory, DirectoryFormat(manifest.directory_format, None, "", manifest.program))
    reach("restore.done")
    now_suppressed = _suppressed(target.control)
    return Restored(
        id=chosen,
        created_at=manifest.created_at,
        files=len(manifest.files),
        bytes=manifest.bytes(),
        tables=len(manifest.tables),
        events=sum(manifest.accepted.values()),
        suppressed=len(now_suppressed),
        suppressed_since=len(now_suppressed - suppressed),
        control_from=known_from,
    )


def _check_target(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise Conflict(
            f"restoring to {directory}: it is not empty; name another --dir (what a restore that was cut short "
            "has left can be removed)"
        )


def _check_room(directory: Path, manifest: Manifest) -> None:
    there = directory.absolute()
    while not there.exists():
        there = there.parent
    wanted, free = round(manifest.bytes() * ROOM_SHARE), shutil.disk_usage(there).free
    if free < wanted:
        raise Unavailable(
            f"restoring to {directory}: {wanted:,} bytes are needed, {free:,} are free; make room"
        )


def _below(directory: Path, file: StoredFile) -> Path:
    path = PurePosixPath(file.path)
    if path.is_absolute() or ".." in path.parts:
        raise Corrupt(f"restoring {file.path!r}: a backup names only files below its directory")
    return directory / path


# ---- the key -----------------------------------------------------------------------------------


def _key_file(manifest: Manifest, folder: Path | None) -> Path | None:
    """Return the folder that holds the identifier key, None where it is in the backup; check that it fits."""
    if folder is None:
        if not manifest.with_key:
            raise Invalid(
                "restoring: this backup was made without the identifier key, and without the key it is of no "
                "use; name the folder that has it with --key-from"
            )
        return None
    for place in (folder / "secrets", folder):
        if (place / IDENTIFIER_KEY_FILE).exists():
            found = key_fingerprint(place)
            if found != manifest.key_fingerprint:
                raise Invalid(
                    f"restoring with the key in {place}: its fingerprint is {found}, the backup was hashed under "
                    f"{manifest.key_fingerprint}; name the folder with that key"
                )
            return place
    raise NotFound(f"restoring with the key in {folder}: there is no {IDENTIFIER_KEY_FILE}")


def _give_secrets(folder: Path, target: Layout) -> None:
    files = [(path, target.secrets / path.name) for path in folder.iterdir() if path.is_file()]
    credentials = folder.parent / target.credentials.name
    if folder.name == target.secrets.name and credentials.exists():
        files.append((credentials, target.credentials))
    for source, place in files:
        place.unlink(missing_ok=True)
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as sink:
            sink.write(source.read_bytes())


# ---- who may send and read, who is suppressed ----------------------------------------------------


def _newest_control(
    place: BackupPlace, given: Path | None, fingerprint: str
) -> tuple[StoredFile | Path, str]:
    if given is not None:
        path = Layout(given).control if given.is_dir() else given
        if not path.is_file():
            raise NotFound(f"restoring with what {given} knows: there is no control database {path}")
        if (found := _bound_to(path)) != fingerprint:
            raise Invalid(
                f"restoring with what {given} knows: it is of another installation, whose key has the fingerprint "
                f"{found}, not {fingerprint}; name the directory that was backed up"
            )
        return path, str(given)
    id, manifest = place.load()
    for file in manifest.files:
        if file.path == "control.sqlite":
            return file, id
    raise Corrupt(f"restoring: backup {id} has no control database; name one with --control-from")


def _replace_control(target: Layout, control: StoredFile | Path, pool: Pool) -> None:
    """Put the newest control database in the place of the one of the backup."""
    if isinstance(control, StoredFile):
        target.control.unlink(missing_ok=True)
        pool.give(control.sha256, control.bytes, target.control)
        return
    newer = target.control.with_suffix(".newer")
    try:
        with closing(_read_only(control)) as one, closing(sqlite3.connect(newer)) as other:
            one.backup(other)
        newer.chmod(0o600)
    except sqlite3.Error as error:
        raise Corrupt(f"reading the control database {control}: {error}") from error
    newer.rename(target.control)


def _bound_to(control: Path) -> str:
    """Return the fingerprint of the key a control database was made with."""
    try:
        with closing(_read_only(control)) as database:
            row = database.execute("SELECT value FROM facts WHERE name = 'identifier_key'").fetchone()
    except sqlite3.Error as error:
        raise Invalid(f"reading the control database {control}: {error}; name another one") from error
    return "" if row is None else str(row[0])


def _read_only(database: Path) -> sqlite3.Connection:
    # `mode=ro` cannot open a WAL database that no writer has open.
    connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_SECONDS)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _suppressed(control: Path) -> set[tuple[str, bytes]]:
    try:
        with closing(_read_only(control)) as database:
            return set(database.execute("SELECT workspace, ident_id FROM suppressions"))
    except sqlite3.Error as error:
        raise Corrupt(f"reading the suppressions in {control}: {error}") from error


# ---- tables ------------------------------------------------------------------------------------


def _move_tables(target: Layout, manifest: Manifest) -> None:
    if not manifest.tables:
        return
    moved = []
    for table in manifest.tables:
        place = Path(os.path.abspath(target.warehouse)) / table.namespace / table.name  # noqa: PTH100
        file = target.directory / table.metadata_file
        location = relocate(file, table.location, f"file://{place}", table.snapshots)
        moved.append((table.namespace, table.name, location))
    register_tables(target.catalog_uri, target.warehouse, moved)
