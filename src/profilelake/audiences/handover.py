"""How a backfill hands over what it folded to the steps that micro-batches go on with.

While the older events of a step are folded, micro-batches keep what they fold of newer ones beside, each
under its number. Whoever folds the older ones begins an attempt, which gets numbers of its own: rows of an
attempt that was cut short stand under numbers that nobody knows any more, and are dropped when they are met.
When all older events are in, what waits beside follows, and the step is complete. All of it may be killed
anywhere: an attempt is begun anew, a merging that was begun goes on.

Used by the process of the lake; the one that applies micro-batches only finishes what it left.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from typing import Final

import msgspec

from profilelake.audiences import definitions_now, pending
from profilelake.audiences.definitions_now import Known
from profilelake.audiences.life import BACKFILLING, fresh_step_number
from profilelake.ops.failpoints import reach
from profilelake.state.computed import StepRecord
from profilelake.state.store import Db, State, Tx
from profilelake.traits import stored
from profilelake.traits.merging import merge
from profilelake.traits.partials import Partials
from profilelake.traits.steps import Step

PART_SETS: Final = 20_000
"""Identifier sets that one transaction of a backfill takes; micro-batches wait meanwhile."""
PART_ROWS: Final = 50_000
"""Rows of partials it takes, about: a set has some of every step. They take a quarter of a second."""
WAITING_BYTES_MAX: Final = 1 << 30
"""Bytes of partials that may wait beside older events when folding these has failed: with more they are dropped, to
be folded from the lake. While an attempt gets on they may be more, else a long one would never end."""
PENDING_MAX: Final = 50
"""Micro-batches whose waiting partials one transaction merges."""
PENDING_BYTES_MAX: Final = 4 << 20
"""Bytes of these partials it takes: where the pipeline caught up, one micro-batch may have many."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Incomplete:
    """A step whose older events are not in: those up to micro-batch `live_after` are to be folded."""

    step: Step
    live_after: int


def incomplete(tx: Tx, workspace: str) -> dict[bytes, Incomplete]:
    """Return the steps that wait for a backfill, by digest; not those that only wait for the merging."""
    kept = definitions_now.steps(tx, workspace)
    if all(record.complete or record.reached for record in kept.values()):
        return {}
    known = Known.of(definitions_now.held(tx, workspace)).step_list()
    return {
        digest: Incomplete(known[digest], record.live_after)
        for digest, record in kept.items()
        if digest in known and not record.complete and not record.reached
    }


def begin_attempt(state: State, workspace: str, steps: Mapping[bytes, Incomplete]) -> dict[bytes, int]:
    """Return the numbers under which an attempt puts the rows of these steps; earlier attempts are void.

    A step that nobody needs any more, or that is complete, gets none; nor does one that was dropped and asked
    for again since these were looked at: what came between is kept for nobody, and the lake may not have it.
    """
    with state.write() as tx:
        kept = definitions_now.steps(tx, workspace)
        open_ = {
            digest: record
            for digest, record in kept.items()
            if digest in steps
            and record.live_after == steps[digest].live_after
            and not (record.complete or record.reached)
        }
        begun: dict[bytes, StepRecord] = {}
        # In the order of the numbers they have, which `pending.renumbered` relies on.
        for digest, record in sorted(open_.items(), key=lambda item: item[1].number):
            number = fresh_step_number(tx, workspace)
            begun[digest] = msgspec.structs.replace(record, attempt=number)
        definitions_now.put_steps(tx, workspace, begun)
    reach("handover.begun")
    return {digest: record.attempt for digest, record in begun.items()}


def put_part(state: State, workspace: str, partials: Partials) -> None:
    """Add what part of the older events come to, under the numbers of the attempt.

    A part that is put twice counts twice: after a failure begin a new attempt.

    Raises:
        Unavailable: disk full or the like.
    """
    for part in pending.parts(partials, _sets_at_once(partials)):
        with state.write() as tx:
            known = Known.of(definitions_now.held(tx, workspace))
            kept = definitions_now.steps(tx, workspace)
            live = frozenset(record.attempt for record in kept.values() if record.attempt)
            stored.add(tx, workspace, pending.of_steps(part, live), known.numbered(kept))
        reach("handover.part")


def _sets_at_once(partials: Partials) -> int:
    """Return of how many sets one transaction takes all there is."""
    rows, sets = pending.size(partials), len(pending.sets_of(partials))
    return max(1, min(PART_SETS, sets * PART_ROWS // max(rows, 1)))


def note_progress(
    state: State, workspace: str, digests: Collection[bytes], done_rows: int, known_rows: int
) -> None:
    """Tell of the definitions that wait for these steps how many events are folded, and of how many."""
    with state.write() as tx:
        records = definitions_now.records(tx, workspace)
        known = Known.of(definitions_now.held(tx, workspace))
        wait = {
            planned.held.definition.key
            for planned in known.plan
            if any(step.digest in digests for step in planned.steps.values())
        }
        definitions_now.put_records(
            tx,
            workspace,
            {
                key: msgspec.structs.replace(record, done_rows=done_rows, known_rows=known_rows)
                for key, record in records.items()
                if key in wait and record.status == BACKFILLING
            },
        )


def finish(state: State, workspace: str, sequence_reached: int) -> None:
    """Let the steps of the attempt be complete: all events up to a micro-batch are put.

    What newer micro-batches have kept beside is merged before this returns.

    Raises:
        Unavailable: disk full or the like; what was begun goes on with the next micro-batch.
    """
    with state.write() as tx:
        kept = definitions_now.steps(tx, workspace)
        definitions_now.put_steps(
            tx,
            workspace,
            {
                digest: msgspec.structs.replace(record, reached=max(1, sequence_reached))
                for digest, record in kept.items()
                if record.attempt and not record.complete and not record.reached
            },
        )
    reach("handover.reached")
    more = True
    while more:
        with state.write() as tx:
            more = merge_waiting(tx, workspace)
        reach("handover.merged")


def merge_waiting(tx: Tx, workspace: str) -> bool:
    """Merge what some micro-batches have kept for steps whose older events are in; tell whether more waits."""
    kept = definitions_now.steps(tx, workspace)
    merging = {d: record for d, record in kept.items() if record.reached and not record.complete}
    if not merging:
        return False
    merged, reached = min((record.merged, record.reached) for record in merging.values())
    # One attempt after the other: another one may have come further.
    merging = {d: r for d, r in merging.items() if (r.merged, r.reached) == (merged, reached)}
    numbers = {record.number: record.attempt for record in merging.values()}
    known = Known.of(definitions_now.held(tx, workspace))
    needed = frozenset(record.number for record in kept.values() if not record.complete) - numbers.keys()
    # Rows that wait for other steps stay where they are, and are not looked at again.
    behind = tx.items(workspace, Db.STEP_PENDING, (merged + 1).to_bytes(8, "big"))
    found: list[tuple[bytes, Partials]] = []
    bytes_left = PENDING_BYTES_MAX
    for sequence, held in islice(behind, PENDING_MAX):
        found.append((sequence, pending.unpacked(held)))
        bytes_left -= len(held)
        if bytes_left <= 0:
            break
    newer = [
        mine
        for sequence, partials in found
        if int.from_bytes(sequence, "big") > reached
        and not pending.is_empty(mine := pending.renumbered(partials, numbers))
    ]
    if newer:
        stored.add(tx, workspace, reduce(merge, newer), known.numbered(kept))
    for sequence, partials in found:
        rest = pending.of_steps(partials, needed)
        if pending.is_empty(rest):
            tx.delete(workspace, Db.STEP_PENDING, sequence)
        else:
            tx.put(workspace, Db.STEP_PENDING, sequence, pending.packed(rest))
    if len(found) == PENDING_MAX or bytes_left <= 0:
        last = int.from_bytes(found[-1][0], "big")
        further = {digest: msgspec.structs.replace(record, merged=last) for digest, record in merging.items()}
        definitions_now.put_steps(tx, workspace, further)
        return True
    definitions_now.put_steps(
        tx,
        workspace,
        {
            digest: StepRecord(record.attempt, record.live_after, complete=True)
            for digest, record in merging.items()
        },
    )
    return any(r.reached and not r.complete for d, r in kept.items() if d not in merging)


def keep_waiting(tx: Tx, workspace: str, sequence: int, partials: Partials) -> None:
    """Keep what a micro-batch folded for steps whose older events are not in."""
    if not pending.is_empty(partials):
        tx.put(workspace, Db.STEP_PENDING, sequence.to_bytes(8, "big"), pending.packed(partials))


def bound_waiting(state: State, workspace: str) -> None:
    """Have older events reach up to the present where too much waits beside them: it will all be in the lake.

    To be called when an attempt has failed, since any attempt is void by it. Nothing is lost; the next attempt
    folds more. Where older events are in for some steps already, what waits for these is merged first.

    Raises:
        Unavailable: disk full or the like; nothing was changed.
    """
    with state.read(workspace) as tx:
        if tx.bytes_used(workspace, Db.STEP_PENDING) <= WAITING_BYTES_MAX:
            return
    with state.write() as tx:
        kept = definitions_now.steps(tx, workspace)
        open_ = {digest: record for digest, record in kept.items() if not record.complete}
        newest = tx.last_key(workspace, Db.STEP_PENDING)
        if newest is None or any(record.reached for record in open_.values()):
            return
        used = tx.bytes_used(workspace, Db.STEP_PENDING)
        tx.clear(workspace, Db.STEP_PENDING)
        through = int.from_bytes(newest, "big")
        anew = {
            digest: StepRecord(record.number, max(through, record.live_after), complete=False)
            for digest, record in open_.items()
        }
        definitions_now.put_steps(tx, workspace, anew)
    _log.warning(
        "definitions of workspace %s wait for older events: %d bytes that waited beside are folded with these later",
        workspace,
        used,
    )


def drop_waiting(tx: Tx, workspace: str) -> None:
    """Forget what waits where no step waits for it: its definitions were dropped."""
    if tx.count(workspace, Db.STEP_PENDING) and all(
        record.complete for record in definitions_now.steps(tx, workspace).values()
    ):
        tx.clear(workspace, Db.STEP_PENDING)
