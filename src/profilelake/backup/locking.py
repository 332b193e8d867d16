"""Locks of files, which end with the process that holds them."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from profilelake.errors import Conflict


@contextmanager
def alone(path: Path, doing: str) -> Iterator[None]:
    """Hold a file's lock, so that two backups do not take away each other's files. Raises Conflict where one has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"{doing}: another backup is being made; wait for it") from error
        yield
    finally:
        os.close(descriptor)
