"""Putting a new state in the place of another one, so that readers find one or the other at any moment."""

import ctypes
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


def put_in_place(fresh: Path, place: Path, moved: Callable[[], None] = lambda: None) -> None:
    """Put the state `fresh` in `place`; the one that was there stays beside it as `<place>.old`.

    Durable when this returns. Both change places in one step where the file system can do that, so that no
    reader and no crash finds the place empty; `moved` is called after it.
    """
    old = place.with_name(place.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if not place.exists():
        fresh.rename(place)
    elif _exchange(fresh, place):
        moved()
        fresh.rename(old)
    else:
        place.rename(old)
        moved()
        fresh.rename(place)
    descriptor = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change their names in one step; False where the file system cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    call = getattr(library, "renameat2", None)
    if call is None:
        return False
    code: int = call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return code == 0
