"""Files on a disk: durable names, removal.

A catalog that survives a power cut must not point at files that did not, so everything written
is on stable storage, with its directory entry, before the catalog is asked to swap.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit


def local_path(location: str) -> Path:
    """Return the path behind a `file://` location (or a plain path)."""
    return Path(urlsplit(location).path if location.startswith("file:") else location)


def is_remote(location: str) -> bool:
    """Tell whether a location is one of another kind than a file of this machine."""
    return "://" in location and not location.startswith("file:")


def sync_directory(path: Path) -> None:
    """Make the entries of a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, so that their names survive a power cut."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def remove_files(locations: Iterable[str]) -> None:
    """Remove files as far as possible; what stays is found by the next sweep."""
    for location in locations:
        try:
            local_path(location).unlink(missing_ok=True)
        except OSError:
            continue
