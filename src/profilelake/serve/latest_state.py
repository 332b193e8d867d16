"""The state as readers find it: not there yet, there, or replaced by a rebuilt one."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from profilelake.errors import NotFound, Unavailable
from profilelake.state.store import State

LOOK_SECONDS: Final = 1.0
"""How long a state that was replaced is still read."""


class LatestState:
    """Opens the state below a path when there is one, and again when another one took its place.

    A rebuilt or compacted state is put in place by rename; whoever keeps the old file mapped would
    answer from it for ever, erased people included. Opens nothing when made, so it may be made before a fork.
    """

    def __init__(
        self, path: Path, *, monotonic: Callable[[], float] = time.monotonic, threads: bool = False
    ) -> None:
        """Open what is at `path`. With `threads` several may read: a state that was replaced stays open
        until none does."""
        self._lock = threading.Lock() if threads else None
        self._path = path
        self._file = str(path / "data.mdb")
        self._monotonic = monotonic
        self._state: State | None = None
        self._inode = 0
        self._look_at = float("-inf")

    def __call__(self) -> State:
        """Return the open state.

        Raises:
            Unavailable: nothing was written yet.
        """
        if self._lock is None:
            return self._latest()
        with self._lock:
            return self._latest()

    def _latest(self) -> State:
        now = self._monotonic()
        if self._state is None or now >= self._look_at:
            self._state = self._reopened()
            self._look_at = now + LOOK_SECONDS
        return self._state

    def close(self) -> None:
        """Give the map back; the next call opens it again."""
        if self._state is not None:
            if self._lock is None:
                self._state.close()
            self._state = None

    def _reopened(self) -> State:
        try:
            found = Path(self._file).stat()
            if self._state is not None and found.st_ino == self._inode:
                return self._state
            self.close()
            if found.st_size:
                self._inode = found.st_ino
                return State.open(self._path)
        except (FileNotFoundError, NotFound):
            self.close()
        raise Unavailable("reading profiles: no state was written yet; send the request again")
