"""What the server and whoever asked for a rebuild tell each other: one small file, replaced as a whole.

Light to import: the supervisor looks at it every second.
"""

import os
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

TRIES_MAX: Final = 3
"""How often a rebuild is begun that was killed, or found the disk full, before it is given up."""

Stage = Literal["asked", "running", "done", "failed"]


class Rebuilding(msgspec.Struct, frozen=True):
    """One rebuild: how far it is. `step` is what was finished last, `result` what `rebuild` returned.

    `engine` is the URL of the engine it runs on; where it is empty the size of the lake decides.
    """

    id: str
    stage: Stage = "asked"
    tries: int = 0
    step: str = ""
    error: str = ""
    result: dict[str, Any] | None = None
    engine: str = ""

    @property
    def open(self) -> bool:
        """Whether there is something left to do."""
        return self.stage in ("asked", "running")


def load(path: Path) -> Rebuilding | None:
    """Return what the file says, None where there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Rebuilding)
    except (OSError, ValueError, msgspec.ValidationError):
        return None


def store(path: Path, rebuilding: Rebuilding) -> None:
    """Say something else; it outlives a power cut, since a rebuild that was begun must be finished."""
    unfinished = path.with_suffix(f".{os.getpid()}.new")
    with unfinished.open("wb") as sink:
        sink.write(msgspec.json.encode(rebuilding))
        sink.flush()
        os.fsync(sink.fileno())
    unfinished.rename(path)


def ended(path: Path, code: int, lasting: frozenset[int]) -> bool:
    """Note that an attempt ended with this code; return whether to begin another one."""
    known = load(path)
    if known is None or known.stage == "done":
        return False
    tries = known.tries + 1
    if code in lasting or tries >= TRIES_MAX:
        error = known.error or f"the process ended with {code}; see the server's log"
        store(path, msgspec.structs.replace(known, stage="failed", tries=tries, error=error))
        return False
    store(path, msgspec.structs.replace(known, stage="running", tries=tries))
    return True
