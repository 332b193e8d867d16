"""The life of a definition: from the decision that made it, over its backfill and the sweep, until it is gone.

What is decided here is which status a definition has and which steps are folded. Evaluating profiles is the
business of `audiences.live`, folding older events that of `audiences.handover`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from profilelake.audiences import definitions_now
from profilelake.audiences.definitions_now import Known, complete
from profilelake.semantics.definitions import Definition, Held
from profilelake.state.computed import DefinitionRecord, StepRecord
from profilelake.state.store import Db, Tx
from profilelake.traits.steps import Planned

BACKFILLING: Final = "backfilling"
"""Older events are still to be folded. Values of a version before stay as they are."""
COMPUTING: Final = "computing"
"""Profiles are gone through for the first time; those that change meanwhile are right already."""
LIVE: Final = "live"
FAILED: Final = "failed"
"""This program cannot compute it. Values of a version before stay as they are."""
DISABLED: Final = "disabled"
DROPPED: Final = "dropped"
STATUSES: Final = (BACKFILLING, COMPUTING, LIVE, FAILED, DISABLED, DROPPED)
EVALUATED: Final = frozenset({COMPUTING, LIVE})
"""Definitions whose values follow events at once."""
WITHDRAWN: Final = frozenset({DISABLED, DROPPED})
"""Definitions that are worth nothing."""
SQL: Final = frozenset({"sql_audience", "sql_trait", "entity"})
RESYNC: Final = "resync"
REBUILD: Final = "rebuild"
DEFINITION: Final = "definition"

_NUMBERS: Final = "computed_numbers"


class _Numbers(msgspec.Struct):
    """The last numbers that were given; none is given twice."""

    definition: int = 0
    step: int = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """Where the state stands: its micro-batch, and the greatest position of an event in it."""

    sequence: int
    position: bytes


def settle(tx: Tx, workspace: str, before: Known | None, now: Known, place: bytes, moment: Moment) -> None:
    """Bring statuses and steps in line with the definitions that hold `now`.

    `before` is what held until a decision at `place`; None where nobody knows, as at a start.
    """
    kept = _settle_steps(tx, workspace, now, moment)
    records = definitions_now.records(tx, workspace)
    plans = {planned.held.definition.key: planned for planned in now.plan}
    changed: dict[str, DefinitionRecord] = {}
    for key in sorted(records.keys() | now.held.keys()):
        if len(key.encode()) > definitions_now.KEY_BYTES_MAX:
            continue
        record = records.get(key)
        if record is None:
            kind = now.held[key].definition.kind
            record = DefinitionRecord(fresh_definition_number(tx, workspace), key, "", kind=kind)
        was = None if before is None else before.held.get(key)
        found = _settled(record, was, now.held.get(key), now.failures.get(key), plans.get(key), kept, place)
        if found is not None:
            changed[key] = found
    definitions_now.put_records(tx, workspace, changed)


def _settled(
    record: DefinitionRecord,
    was: Held | None,
    held: Held | None,
    failure: str | None,
    planned: Planned | None,
    kept: Mapping[bytes, StepRecord],
    place: bytes,
) -> DefinitionRecord | None:
    """Return a record as it is from now on, None where it stays."""
    if held is None or not held.definition.enabled:
        status = DROPPED if held is None else DISABLED
        version = record.version if held is None else held.version
        if record.status in WITHDRAWN:
            # What is withdrawn already goes on being so; only the word for it may be another.
            same = (record.status, record.version) == (status, version)
            return None if same else msgspec.structs.replace(record, status=status, version=version)
        return msgspec.structs.replace(
            record,
            status=status,
            version=version,
            failure="",
            swept=b"",
            sweeping=True,
            cause=DEFINITION,
            caused_by=place,
        )
    if failure is not None:
        if (record.status, record.failure, record.version) == (FAILED, failure, held.version):
            return None
        return msgspec.structs.replace(
            record,
            status=FAILED,
            failure=failure,
            version=held.version,
            sweeping=False,
            swept=b"",
            cause=_cause(record),
        )
    if planned is None:  # in SQL: whoever runs it says how far it is
        if record.version == held.version and record.status not in (*WITHDRAWN, FAILED, ""):
            return None
        return msgspec.structs.replace(record, status=COMPUTING, version=held.version, failure="", swept=b"")
    if record.status in EVALUATED and complete(list(planned.steps.values()), kept):
        if record.version == held.version:
            return None
        if was is not None and _same_values(was.definition, held.definition):
            return msgspec.structs.replace(record, version=held.version)
    elif record.status == BACKFILLING and record.version == held.version:
        return None
    return msgspec.structs.replace(
        record,
        status=BACKFILLING,
        version=held.version,
        failure="",
        swept=b"",
        sweeping=False,
        cause=_cause(record),
        caused_by=held.position,
        done_rows=0,
        known_rows=0,
    )


def _cause(record: DefinitionRecord) -> str:
    """Return why all of it is announced next: a resync that waits is owed still, of what it says then."""
    waits = record.sweeping or record.status in (BACKFILLING, FAILED)
    return RESYNC if record.cause == RESYNC and waits else DEFINITION


def _same_values(a: Definition, b: Definition) -> bool:
    """Tell whether two versions of a definition are worth the same, whatever else they say."""
    quiet = {"name": "", "description": "", "every_seconds": 0, "managed_by": ""}
    return replace(a, **quiet) == replace(b, **quiet)  # type: ignore[arg-type]  # fields by name have one type to mypy


def resync(tx: Tx, workspace: str, key: str, place: bytes) -> None:
    """Have all values of a definition announced once more; where older events are folded still, after that.

    Of one that cannot be computed it is owed until it can.
    """
    record = definitions_now.records(tx, workspace).get(key)
    if record is None or record.status not in (BACKFILLING, FAILED, *EVALUATED):
        return
    sweeping = record.status in EVALUATED
    again = msgspec.structs.replace(record, sweeping=sweeping, swept=b"", cause=RESYNC, caused_by=place)
    definitions_now.put_records(tx, workspace, {key: again})


def ready(
    known: Known, records: Mapping[str, DefinitionRecord], kept: Mapping[bytes, StepRecord]
) -> list[str]:
    """Return the definitions whose steps are complete and for which nobody was evaluated yet.

    One that reads another waits for it, and for the rows of entities: without these everybody might come in, or
    nobody.
    """
    waiting = {key for key, record in records.items() if record.status == BACKFILLING}
    unknown = {key for key, r in records.items() if r.kind == "entity" and r.status in (COMPUTING, FAILED)}
    found = []
    for planned in known.plan:
        key = planned.held.definition.key
        blocked = planned.reads & waiting or planned.entities & unknown
        if key in waiting and not blocked and complete(list(planned.steps.values()), kept):
            found.append(key)
            waiting.discard(key)
    return found


def advance(
    tx: Tx,
    workspace: str,
    known: Known,
    records: dict[str, DefinitionRecord],
    kept: Mapping[bytes, StepRecord],
) -> None:
    """Begin to go through all profiles for the definitions that are ready; `records` follow."""
    begun = {
        key: msgspec.structs.replace(records[key], status=COMPUTING, sweeping=True, swept=b"")
        for key in ready(known, records, kept)
    }
    records.update(begun)
    definitions_now.put_records(tx, workspace, begun)


def _settle_steps(tx: Tx, workspace: str, now: Known, moment: Moment) -> Mapping[bytes, StepRecord]:
    """Give new steps a number, and forget those that nobody needs any more."""
    kept, needed = definitions_now.steps(tx, workspace), now.step_list()
    for digest in kept.keys() - needed.keys():
        tx.delete(workspace, Db.STEP, digest)
        del kept[digest]
    fresh = {
        digest: StepRecord(
            _next(tx, workspace, "step"), moment.sequence, complete=needed[digest].since >= moment.position
        )
        for digest in sorted(needed.keys() - kept.keys())
    }
    definitions_now.put_steps(tx, workspace, fresh)
    return kept | fresh


def fresh_step_number(tx: Tx, workspace: str) -> int:
    """Return a number that no step ever had."""
    return _next(tx, workspace, "step")


def fresh_definition_number(tx: Tx, workspace: str) -> int:
    """Return a number that no definition ever had."""
    return _next(tx, workspace, "definition")


def _next(tx: Tx, workspace: str, what: str) -> int:
    held = tx.meta(workspace, _NUMBERS)
    numbers = _Numbers() if held is None else msgspec.msgpack.decode(held, type=_Numbers)
    number: int = getattr(numbers, what) + 1
    setattr(numbers, what, number)
    tx.put_meta(workspace, _NUMBERS, numbers)
    return number
