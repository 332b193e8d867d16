"""Previews: what a definition would be worth, computed aside and kept for a while.

Each is a file below the run folder, so that every HTTP process can answer for all of them.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from profilelake.errors import NotFound, ProfilelakeError, Unavailable
from profilelake.ops.clock import Clock

RUNNING_MAX: Final = 4
"""Previews that are computed or wait for it, of all HTTP processes."""
KEPT_MAX: Final = 200
KEPT_SECONDS: Final = 86_400
GONE_SECONDS: Final = 900
"""A preview that has been running for so long is not computed any more: its process has ended."""
_ID: Final = re.compile(r"pre_[0-9a-f]{24}")
_MICROSECONDS: Final = 1_000_000

_log = logging.getLogger(__name__)


class Preview(msgspec.Struct, rename="camel", omit_defaults=True):
    """One preview. `status`: RUNNING, COMPLETED or FAILED."""

    id: str
    audience_type: str
    status: str
    started_at: int
    results: list[dict[str, Any]] | None = None
    size: dict[str, Any] | None = None
    failure_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Previews:
    """The previews of a workspace, in a folder."""

    directory: Path
    clock: Clock
    token: Callable[[], str]
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    def start(self, audience_type: str, compute: Callable[[], Awaitable[Preview]]) -> Preview:
        """Return a new preview that is being computed; `compute` returns it completed.

        Raises:
            Unavailable: as many are computed as may be at the same time.
        """
        self.directory.mkdir(exist_ok=True)
        running = sum(one.status == "RUNNING" for one in self._all())
        if running >= RUNNING_MAX:
            raise Unavailable(
                f"previewing: {running} previews are being computed, the most is {RUNNING_MAX}; retry later",
                retry_after_seconds=10,
            )
        preview = Preview(f"pre_{self.token()}", audience_type, "RUNNING", self.clock())
        self._put(preview)
        task = asyncio.get_running_loop().create_task(self._run(preview, compute))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return preview

    def get(self, id: str) -> Preview:
        """Return a preview. Raises NotFound where there is none, or none any more."""
        found = self._read(self.directory / f"{id}.json") if _ID.fullmatch(id) else None
        if found is None:
            raise NotFound(f"preview {id[:40]!r}: there is none; they are kept for a day")
        return found

    async def _run(self, preview: Preview, compute: Callable[[], Awaitable[Preview]]) -> None:
        try:
            async with asyncio.timeout(GONE_SECONDS):
                done = await compute()
            done = msgspec.structs.replace(done, id=preview.id, started_at=preview.started_at)
        except ProfilelakeError as error:
            done = msgspec.structs.replace(preview, status="FAILED", failure_reason=str(error))
        except TimeoutError:
            reason = (
                f"it took longer than {GONE_SECONDS} seconds; ask the lake with SQL, or define it disabled"
            )
            done = msgspec.structs.replace(preview, status="FAILED", failure_reason=reason)
        except Exception:  # noqa: BLE001 - whatever it is
            # Left as RUNNING, a fault of ours would take the place of another preview until it is given up.
            _log.exception("previewing failed")
            reason = "it could not be computed; the log of the server says why"
            done = msgspec.structs.replace(preview, status="FAILED", failure_reason=reason)
        self._put(done)

    def _put(self, preview: Preview) -> None:
        path = self.directory / f"{preview.id}.json"
        path.with_suffix(".new").write_bytes(msgspec.json.encode(preview))
        path.with_suffix(".new").rename(path)

    def _all(self) -> list[Preview]:
        """Return the previews there are; those that are too old or too many are removed."""
        found: list[tuple[Preview, Path]] = []
        for path in self.directory.glob("pre_*.json"):
            one = self._read(path)
            if one is not None:
                found.append((one, path))
        found.sort(key=lambda each: -each[0].started_at)
        oldest = self.clock() - KEPT_SECONDS * _MICROSECONDS
        kept = [one for one, _ in found[:KEPT_MAX] if one.started_at >= oldest]
        for _, path in found[len(kept) :]:
            path.unlink(missing_ok=True)
        return kept

    def _read(self, path: Path) -> Preview | None:
        try:
            one = msgspec.json.decode(path.read_bytes(), type=Preview)
        except (OSError, msgspec.DecodeError):
            return None
        if one.status == "RUNNING" and self.clock() - one.started_at > GONE_SECONDS * _MICROSECONDS:
            reason = "the process that computed it has ended; ask for it again"
            return msgspec.structs.replace(one, status="FAILED", failure_reason=reason)
        return one
