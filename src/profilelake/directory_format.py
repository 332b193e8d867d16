"""Which on-disk format a data directory has, and which program left it so.

`FORMAT` is a number that guards the directory: a program touches it only when it knows that number.
`format.json` tells more: the format the files really have, and an upgrade that is under way. While
one is, the guard says the newer format already, so that no older program meets files half changed.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import profilelake
from profilelake.errors import Conflict, Corrupt

FORMAT: Final = 2
"""Version of everything below the data directory that this program reads and writes."""
GUARD: Final = "FORMAT"
DETAILS: Final = "format.json"
FORMAT_WITH_DETAILS: Final = 2
"""Directories of older formats tell nothing but their number."""


@dataclass(frozen=True, slots=True)
class DirectoryFormat:
    """What a directory says of itself. `upgrading_to` is the format an upgrade is on its way to.

    `created_by` and `program` are the versions that made the directory and that last changed its
    format; empty where a program wrote it that did not tell.
    """

    format: int
    upgrading_to: int | None = None
    created_by: str = ""
    program: str = ""


def new_format() -> DirectoryFormat:
    """Return what a directory made by this program says."""
    return DirectoryFormat(FORMAT, None, profilelake.__version__, profilelake.__version__)


def read_format(directory: Path) -> DirectoryFormat | None:
    """Return what a directory says, None where it is not a data directory.

    Raises:
        Corrupt: it says nonsense.
        Conflict: a newer program wrote it.
    """
    try:
        guard = (directory / GUARD).read_text(errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not (guard.isascii() and guard.isdigit()) or int(guard) < 1:
        raise Corrupt(
            f"opening {directory}: its file {GUARD} says {guard[:20]!r}, this program reads {FORMAT}; "
            "restore it from backup"
        )
    if int(guard) > FORMAT:
        raise Conflict(
            f"opening {directory}: format {guard}, this program reads {FORMAT}; "
            "upgrade profilelake: pip install --upgrade profilelake"
        )
    try:
        told = _told(json.loads((directory / DETAILS).read_text()))
    except FileNotFoundError as error:
        if int(guard) < FORMAT_WITH_DETAILS:
            return DirectoryFormat(int(guard))
        raise Corrupt(
            f"opening {directory}: its file {DETAILS} is missing; restore it from backup"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(
            f"opening {directory}: its file {DETAILS} is not as we wrote it: {error}; restore it from backup"
        ) from error
    if told.format > int(guard):
        raise Corrupt(
            f"opening {directory}: {GUARD} says {guard}, {DETAILS} speaks of {told.format}; "
            "restore both from backup"
        )
    return told


def check_format(directory: Path) -> bool:
    """Refuse a directory that this program must not touch as it is; False where there is none.

    Raises:
        Conflict: it is of an older format, or of a newer one, or an upgrade of it was cut short.
        Corrupt: it says nonsense.
    """
    told = read_format(directory)
    if told is None:
        return False
    if told.upgrading_to is not None:
        raise Conflict(
            f"opening {directory}: its upgrade from format {told.format} to {told.upgrading_to} was cut short; "
            f"finish it: profilelake upgrade --dir {directory}"
        )
    if told.format < FORMAT:
        raise Conflict(
            f"opening {directory}: format {told.format}, this program reads {FORMAT}; "
            f"upgrade it: profilelake upgrade --dir {directory}"
        )
    return True


def write_format(directory: Path, told: DirectoryFormat) -> None:
    """Make a directory say this, durably.

    The guard comes last: a directory is one from the moment that it is there, and whoever raises it
    has told first that an upgrade is under way. Nothing else may have changed before this returns.
    """
    details = json.dumps(asdict(told), indent=2) + "\n"
    guard = f"{told.upgrading_to or told.format}\n"
    for name, text in ((DETAILS, details), (GUARD, guard)):
        unfinished = directory / f".{name}.new"
        with unfinished.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(directory / name)
        # A power cut must leave a data directory or none, never one without its format.
        sync_directory(directory)
    sync_directory(directory.absolute().parent)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _told(document: Any) -> DirectoryFormat:
    upgrading_to = document["upgrading_to"]
    return DirectoryFormat(
        format=int(document["format"]),
        upgrading_to=None if upgrading_to is None else int(upgrading_to),
        created_by=str(document.get("created_by", "")),
        program=str(document.get("program", "")),
    )
