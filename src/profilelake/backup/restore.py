"""A data directory made again from a backup, in a new place.

Who may send and read, and who is suppressed, is taken as it was last known, not as it was at the time of
the backup: nobody comes back who asked to be left out since, and no token that was revoked. Tables are
made to lie where settings say (`placing`). The directory becomes one with the last step, so what was cut short is
never taken for a whole one.
"""

import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from profilelake.backup import placing
from profilelake.backup.fetching import each_at_once
from profilelake.backup.manifest import Manifest, StoredFile
from profilelake.backup.places import Place
from profilelake.backup.pool import Contents, sync_file_system
from profilelake.directory_format import FORMAT, DirectoryFormat, write_format
from profilelake.errors import Conflict, Corrupt, Invalid, NotFound, Unavailable
from profilelake.lake.files import is_remote, local_path
from profilelake.lake.place import LakePlace
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
    warehouse: str = ""
    """Where tables are to lie, and (`catalog`) what is to know them, if not where the settings of the backup say."""
    catalog: str = ""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was made. `suppressed` counts who is on the list; `suppressed_since` those the backup itself does
    not know of, `control_from` where they are from. `to_write` are settings of `[lake]` that are still to be written."""

    id: str
    created_at: str
    files: int
    bytes: int
    tables: int
    events: int
    suppressed: int
    suppressed_since: int
    control_from: str
    warehouse: str
    catalog: str
    to_write: tuple[str, ...]


def check(kept_in: Place, id: str = "", report: Report = lambda _: None) -> tuple[str, Manifest]:
    """Return a backup all of whose files are what they should be: each is read.

    Raises:
        NotFound: there is none.
        Corrupt: files are damaged or missing; some are named.
    """
    kept_in.check()
    chosen, manifest = kept_in.load(id)
    report(f"checking {len(manifest.files)} files of backup {chosen}")
    files = manifest.files
    _refuse(kept_in, chosen, files, kept_in.pool.damaged({(file.sha256, file.bytes) for file in files}))
    return chosen, manifest


def _refuse(kept_in: Place, chosen: str, files: Sequence[StoredFile], bad: Sequence[str]) -> None:
    """Raise Corrupt where contents are bad."""
    damaged = set(bad)
    if damaged:
        paths = [file.path for file in files if file.sha256 in damaged]
        raise Corrupt(
            f"checking backup {chosen} in {kept_in.name}: {len(paths)} of {len(files)} files are damaged or "
            f"missing, {', '.join(paths[:3])} among them; restore another backup, there are "
            f"{', '.join(other for other in kept_in.ids() if other != chosen) or 'no others'}"
        )


def restore(kept_in: Place, target: Layout, options: Options, report: Report = lambda _: None) -> Restored:
    """Make a data directory in an empty place from a backup.

    Raises:
        Conflict: there is something in the place, or a newer program made the backup.
        Invalid: the identifier key is not given, or it is another one.
        NotFound, Corrupt: as `check`.
        Unavailable: there is not enough room.
    """
    _check_target(target.directory)
    kept_in.check()
    chosen, manifest = kept_in.load(options.id)
    if manifest.directory_format > FORMAT:
        raise Conflict(
            f"restoring backup {chosen}: it is of format {manifest.directory_format}, this program reads "
            f"{FORMAT}; upgrade profilelake: pip install --upgrade profilelake"
        )
    key = _key_file(manifest, options.key_from)
    control, known_from = _newest_control(kept_in, options.control_from, manifest.key_fingerprint)
    places = {file.path: _below(target.directory, file.path) for file in manifest.files}
    _refuse_outside(manifest)
    pool = kept_in.pool
    with _begun(target):
        saying = [file for file in manifest.files if _says_where(file)]
        _refuse(kept_in, chosen, saying, pool.lacking({(file.sha256, file.bytes) for file in saying}))
        for file in saying:
            pool.give(file.sha256, file.bytes, places[file.path])
        if key is not None:
            _give_secrets(key, target)
        lake = placing.place_for(target, os.environ, options.warehouse, options.catalog)
        inside = placing.is_inside(target, lake)
        _check_room(target.directory, manifest, lake, inside=inside)
        if manifest.tables and not inside:
            placing.refuse_taken(target, lake, manifest, chosen)
        report(f"checking {len(manifest.files)} files of backup {chosen}")
        wanted = {(file.sha256, file.bytes) for file in manifest.files}
        _refuse(kept_in, chosen, manifest.files, pool.lacking(wanted))
        if manifest.tables and not inside:
            placing.claim(target, lake, chosen)
    report(f"copying {manifest.bytes():,} bytes to {target.directory}")
    here = [
        file
        for file in manifest.files
        if not _says_where(file) and (inside or not file.path.startswith(placing.TABLES))
    ]
    each_at_once(here, lambda file: pool.give(file.sha256, file.bytes, places[file.path]), pool.at_once)
    reach("restore.copied")
    suppressed = _suppressed(target.control)
    _replace_control(target, control, pool)
    report(f"moving {len(manifest.tables)} tables to {lake.warehouse}")
    if inside:
        placing.place_inside(target, lake, manifest)
    elif manifest.tables:
        placing.place_elsewhere(pool, target, lake, manifest, chosen)
    reach("restore.moved")
    with Control.open(target.control, secrets.token_bytes) as database:
        database.bind_identifier_key(target.secrets)
    sync_file_system(target.directory)
    write_format(target.directory, DirectoryFormat(manifest.directory_format, None, "", manifest.program))
    if manifest.tables and not inside:
        placing.release(lake)
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
        warehouse=lake.warehouse,
        catalog=lake.catalog,
        to_write=tuple(placing.settings_to_write(target, os.environ, lake)),
    )


def _check_target(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise Conflict(
            f"restoring to {directory}: it is not empty; name another --dir (what a restore that was cut short "
            "has left can be removed)"
        )


@contextmanager
def _begun(target: Layout) -> Iterator[None]:
    """Make the folders of a directory; leave the place as empty as it was where that ends with an error."""
    there = target.directory.exists()
    target.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        for path in (target.run, target.secrets):
            path.mkdir(mode=0o700)
        yield
    except BaseException:
        for path in target.directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not there:
            target.directory.rmdir()
        raise


def _says_where(file: StoredFile) -> bool:
    """Tell whether a file must be there before anybody knows, and can open, the place of the tables."""
    return file.path in ("profilelake.toml", "credentials.json") or file.path.startswith("secrets/")


def _check_room(directory: Path, manifest: Manifest, lake: LakePlace, *, inside: bool) -> None:
    tables = sum(file.bytes for file in placing.files_of_tables(manifest))
    _check_free(directory, manifest.bytes() - (0 if inside else tables))
    if not inside and not is_remote(lake.warehouse):
        _check_free(local_path(lake.warehouse), tables)


def _check_free(directory: Path, size: int) -> None:
    there = directory.absolute()
    while not there.exists():
        there = there.parent
    wanted, free = round(size * ROOM_SHARE), shutil.disk_usage(there).free
    if free < wanted:
        raise Unavailable(
            f"restoring to {directory}: {wanted:,} bytes are needed, {free:,} are free; make room"
        )


def _below(directory: Path, name: str) -> Path:
    """Return the path of what a backup names below its directory. Parts of the name are put below other folders too."""
    path = PurePosixPath(name)
    # A name spelt otherwise than its parts, such as lake//etc, may be an absolute one where only its end is taken.
    if not path.parts or path.is_absolute() or ".." in path.parts or str(path) != name:
        raise Corrupt(f"restoring {name!r}: a backup names only files below its directory")
    return directory / path


def _refuse_outside(manifest: Manifest) -> None:
    """Refuse tables that would be written elsewhere than below the warehouse."""
    for table in manifest.tables:
        folder = f"{placing.TABLES}{table.namespace}/{table.name}"
        _below(Path(), folder)
        _below(Path(), table.metadata_file)
        if not table.metadata_file.startswith(f"{folder}/"):
            raise Corrupt(
                f"restoring the table {table.namespace}.{table.name}: the backup names {table.metadata_file!r} as its "
                "metadata, which is none of its files"
            )


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


def _newest_control(place: Place, given: Path | None, fingerprint: str) -> tuple[StoredFile | Path, str]:
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
    try:
        id, manifest = place.load()
    except Corrupt as error:
        # An older one may not know of who was suppressed since, so nobody takes it by himself.
        raise Corrupt(
            f"restoring: who may send and read, and who is suppressed, is taken from the newest backup: {error}, or name "
            "what knows it with --control-from"
        ) from error
    for file in manifest.files:
        if file.path == "control.sqlite":
            return file, id
    raise Corrupt(f"restoring: backup {id} has no control database; name one with --control-from")


def _replace_control(target: Layout, control: StoredFile | Path, pool: Contents) -> None:
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
