"""What became of every event, micro-batch by micro-batch, for whoever watches at the moment.

    DIR/run/tail/<workspace>/leases/<id>          locked by a watcher as long as it lives
    DIR/run/tail/<workspace>/<count>.arrow        one micro-batch that is applied
    DIR/run/tail/<workspace>/<count>.pending      one whose transaction may not have ended

`count` is how many events of the workspace were applied before the batch; the file says how many are
after it. The state holds the same counts, so batches follow without a gap, or the gap says how many
events it holds; neither a crash nor a retry shows a batch twice. With no watcher this costs one look
for a directory that is not there. `tail` is the watching side.
"""

import fcntl
import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.landing.dedup import Verdict
from profilelake.landing.land import Landed
from profilelake.landing.requests import Request
from profilelake.landing.tables import POSITION, TIME
from profilelake.ops.clock import Clock
from profilelake.ops.failpoints import reach
from profilelake.semantics.events import EVENT_TYPES

OUTCOME_BYTES_MAX: Final = 256 << 20
"""What is kept for watchers that do not read; beyond it the oldest goes, and they are told how many."""
OUTCOME_AGE_SECONDS_MAX: Final = 900.0
"""How long it is kept: nothing of a person stays longer because somebody watches."""
LEASES: Final = "leases"
SHOWN: Final = ".arrow"
PENDING: Final = ".pending"
AFTER: Final = b"after"
"""Where a file says how many events are applied after it."""
PRIVATE_FILE: Final = 0o600

OUTCOMES: Final = pa.schema(
    [
        ("position", POSITION),
        ("received_at", TIME),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("type", pa.string()),
        ("event", pa.string()),
        ("user_id", pa.string()),
        ("anonymous_id", pa.string()),
        ("message_id", pa.string()),
        ("source_id", pa.string()),
    ]
)
"""One event each, in position order. `status` is one of `STATUSES`; `reason` says why an event failed.
Suppressed events have no row, only a place in the count: nobody is to know more of them."""
STATUSES: Final = ("accepted", "duplicate", "failed")
_FROM_EVENTS: Final = ("type", "event", "user_id", "anonymous_id")
_STATUSES_BY_VERDICT: Final = {
    Verdict.ACCEPTED: "accepted",
    Verdict.DUPLICATE: "duplicate",
    Verdict.EARLIER_COPY: "duplicate",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Kept:
    path: Path
    bytes: int
    at: int


class Recording:
    """Records the outcomes of one workspace while somebody watches. One per pipeline.

    `look` between micro-batches; `begin` before a transaction, `write` inside it, `show` when it has
    committed. A watcher must not stop what it watches: what the disk refuses is a gap for it.
    """

    def __init__(self, directory: Path, applied: int, clock: Clock) -> None:
        """Take over from a pipeline that ended anyhow, `applied` events into the workspace."""
        self.watched = False
        self._directory = directory
        self._clock = clock
        self._pending: Path | None = None
        self._kept: deque[_Kept] = deque()
        for path in directory.glob(f"*{PENDING}"):
            # What the transaction before our start wrote, if it committed, and what never happened.
            self._pending = path
            if _after(path) == applied:
                self.show()
            self.begin()
        self._kept = deque(_kept(path) for path in sorted(directory.glob(f"*{SHOWN}")))

    def look(self, applied: Callable[[], int]) -> None:
        """See who watches, promise newcomers what follows `applied()`, remove what nobody waits for."""
        try:
            leases = [Path(entry.path) for entry in os.scandir(self._directory / LEASES)]
        except OSError:
            leases = []
        try:
            held = [_is_held(lease, applied) for lease in leases]
        except OSError as error:
            _log.warning("looking for watchers in %s: %s", self._directory, error)
            return
        self.watched = any(held)
        self._forget()

    def begin(self) -> None:
        """Forget what a transaction that has failed wrote: it will be tried again, whole or in parts."""
        pending, self._pending = self._pending, None
        if pending is not None:
            _remove(pending)

    def write(self, landed: Landed, failed: pa.Table, before: int, after: int) -> None:
        """Write down what became of the events of a micro-batch; nobody sees it before `show`."""
        if not self.watched or after == before:
            return
        self._pending = path = self._directory / f"{before:020d}{PENDING}"
        try:
            rows = outcomes(landed, failed).replace_schema_metadata({AFTER: str(after)})
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            with (
                os.fdopen(os.open(path, flags, PRIVATE_FILE), "wb") as sink,
                pa.ipc.new_file(sink, rows.schema, options=options) as writer,
            ):
                writer.write_table(rows)
        except Exception as error:  # noqa: BLE001 - else a fault of this would make dead letters of events
            # The watcher sees that the counts do not meet, and how many events it misses.
            _log.warning("writing for watchers to %s: %s", path, type(error).__name__)
            self.begin()
        reach("tail.written")

    def show(self) -> None:
        """Show the micro-batch that was written last, now that it is applied."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        path = pending.with_suffix(SHOWN)
        try:
            pending.rename(path)
            self._kept.append(_kept(path))
        except OSError as error:
            _log.warning("showing %s to watchers: %s", pending, error)
        reach("tail.shown")

    def _forget(self) -> None:
        """Remove what is too old or too much; everything, when nobody watches."""
        if not self._kept:
            return
        bytes_left = sum(kept.bytes for kept in self._kept)
        oldest = self._clock() - OUTCOME_AGE_SECONDS_MAX * 1_000_000
        while self._kept:
            first = self._kept[0]
            if self.watched and bytes_left <= OUTCOME_BYTES_MAX and first.at >= oldest:
                break
            _remove(first.path)
            bytes_left -= first.bytes
            self._kept.popleft()


def _kept(path: Path) -> _Kept:
    facts = path.stat()
    return _Kept(path, facts.st_size, facts.st_mtime_ns // 1_000)


def _after(path: Path) -> int:
    try:
        with pa.ipc.open_file(path) as file:
            return int(file.schema.metadata[AFTER])
    except (OSError, pa.ArrowException, KeyError, TypeError):
        # Not written to its end, so its transaction did not commit.
        return -1


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("removing %s: %s", path, error)


def _is_held(lease: Path, applied: Callable[[], int]) -> bool:
    """Tell whether a watcher holds this lease, and promise it what follows; remove a dead one."""
    try:
        descriptor = os.open(lease, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if os.fstat(descriptor).st_size == 0:
            os.pwrite(descriptor, f"{applied():020d}".encode(), 0)
        return True
    else:
        lease.unlink(missing_ok=True)
        return False
    finally:
        os.close(descriptor)


# ---- rows ------------------------------------------------------------------------------------


def outcomes(landed: Landed, failed: pa.Table) -> pa.Table:
    """Return what became of each event of a micro-batch, as `OUTCOMES`."""
    parts = [_failed_rows(failed)] if failed.num_rows else []
    if landed.verdicts is not None:
        parts.append(_read_rows(landed.arrived, landed.verdicts))
    if not parts:
        return OUTCOMES.empty_table()
    # Each part is in position order already.
    return pa.concat_tables(parts).sort_by("position") if len(parts) > 1 else parts[0]


_STATUS_OF: Final = pa.array([_STATUSES_BY_VERDICT.get(verdict) for verdict in sorted(Verdict)], pa.string())


def _read_rows(arrived: pa.Table, verdicts: npt.NDArray[np.int8]) -> pa.Table:
    """Return the events that could be read, but for conflicts: these are among the failed."""
    made = {
        "status": _STATUS_OF.take(pa.array(verdicts)),
        "reason": pa.nulls(arrived.num_rows, pa.string()),
    }
    columns = [made[name] if name in made else arrived.column(name) for name in OUTCOMES.names]
    rows = pa.table(columns, schema=OUTCOMES)
    return rows.filter(pc.is_valid(rows.column("status"))) if made["status"].null_count else rows


class _Known(msgspec.Struct):
    """What can be told of a failed event without judging it."""

    type: Any = None
    event: Any = None
    user_id: Any = msgspec.field(name="userId", default=None)
    anonymous_id: Any = msgspec.field(name="anonymousId", default=None)


_decode: Final = msgspec.json.Decoder(_Known).decode
_NOTHING: Final = _Known()


def _failed_rows(failed: pa.Table) -> pa.Table:
    known = [_known(raw) for raw in failed.column("raw").to_pylist()]
    texts = {
        name: pa.array([_text(getattr(each, name)) for each in known], pa.string()) for name in _FROM_EVENTS
    }
    # Of a single message the path names the type.
    kinds = pa.array(
        [Request.decode(text).kind for text in failed.column("request").to_pylist()], pa.string()
    )
    single = pc.is_in(kinds, pa.array(EVENT_TYPES))
    texts["type"] = pc.if_else(single, kinds, texts["type"])
    texts["status"] = pa.array(["failed"] * failed.num_rows, pa.string())
    columns = [texts[name] if name in texts else failed.column(name) for name in OUTCOMES.names]
    return pa.table(columns, schema=OUTCOMES)


def _known(raw: bytes | None) -> _Known:
    try:
        return _decode(raw or b"")
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return _NOTHING


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
