"""What a data directory remembers of its backups: when, where, and who has the identifier key."""

import os
from pathlib import Path

import msgspec

from profilelake.directory_format import sync_directory


class Made(msgspec.Struct, frozen=True):
    """One backup that was made. `place` is the folder it lies in, or the one the key was written to."""

    at: int
    place: str
    id: str
    key_fingerprint: str


class Record(msgspec.Struct, frozen=True):
    """The last backup, and the last time that the identifier key was put somewhere else."""

    last: Made | None = None
    with_key: Made | None = None


def load(path: Path) -> Record:
    """Return what is remembered; nothing where there is nothing that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, ValueError, msgspec.ValidationError):
        return Record()


def store(path: Path, record: Record) -> None:
    """Remember this, durably."""
    unfinished = path.with_suffix(".new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as sink:
        sink.write(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        sink.flush()
        os.fsync(sink.fileno())
    unfinished.rename(path)
    sync_directory(path.parent)
