"""Computed traits and audiences inside a micro-batch: in the transaction that applies the events.

Events are folded into the partials of their sets; the profiles they touch, those that identity changed and
those whose time has come are evaluated at pipeline time, and what differs from what was announced is
announced. Where nobody defined anything none of this costs anything.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from heapq import merge
from itertools import islice
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.audiences import definitions_now, facts, handover, life, pending
from profilelake.audiences.definitions_now import Known
from profilelake.audiences.evaluating import Evaluation, Why
from profilelake.audiences.facts import Resync
from profilelake.audiences.faults import PASSED_ON, Faulty, works
from profilelake.audiences.life import BACKFILLING, COMPUTING, LIVE, SQL, WITHDRAWN, Moment
from profilelake.audiences.publish import fact_rows
from profilelake.audiences.tables import DEFINITION_FACTS
from profilelake.errors import Invalid
from profilelake.ops.failpoints import reach
from profilelake.state import outbox
from profilelake.state.computed import DefinitionRecord, StepRecord, due_profiles
from profilelake.state.heads import decode_set_head
from profilelake.state.store import Db, Tx
from profilelake.state.working import Working
from profilelake.traits import stored
from profilelake.traits.fold import fold
from profilelake.traits.partials import Numbered, Partials

SWEEP_PROFILES: Final = 2_000
"""Profiles that one micro-batch goes through for new definitions."""
TIMERS_MAX: Final = 2_000
"""Profiles whose time has come that one micro-batch evaluates; others follow in the next ones."""
EVALUATED_MAX: Final = 10_000
"""Profiles that one micro-batch evaluates for what happened to them; others follow as if their time had come."""

_PARTIALS: Final = (
    Db.STEP_ROWS,
    Db.STEP_ENTRY,
    Db.STEP_EVENT,
    Db.STEP_PENDING,
)
_LAST: Final = b"\xff" * 16


@dataclass(frozen=True, slots=True)
class Brought:
    """What a micro-batch brought, as far as definitions may ask for it.

    `decided` is the position of the decision that is the cause, where one is. `accounts` may have other users.
    """

    events: pa.Table | None = None
    writes: pa.Table | None = None
    links: pa.Table | None = None
    decided: bytes = b""
    accounts: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the definitions of a workspace stand; `late` is in microseconds."""

    statuses: Mapping[str, int] = field(default_factory=dict)
    late: int = 0
    partial_bytes: int = 0


@dataclass(slots=True)
class Counted:
    """What was done since it was last asked."""

    evaluated: int = 0
    changes: int = 0

    def plus(self, other: "Counted") -> "Counted":
        """Return what both did."""
        return Counted(self.evaluated + other.evaluated, self.changes + other.changes)


@dataclass(slots=True)
class Computing:
    """The definitions of one workspace and what the pipeline does for them; used by one thread."""

    workspace: str
    counted: Counted = field(default_factory=Counted)
    _known: Known = field(default_factory=lambda: Known({}, (), {}))
    _faulty: dict[tuple[str, int], str] = field(default_factory=dict)
    _ours: set[tuple[str, int]] = field(default_factory=set)
    any: bool = False
    """Whether anything ever was defined."""

    def load(self, tx: Tx) -> None:
        """Take what holds from the state; again after a transaction failed."""
        self.any = tx.count(self.workspace, Db.DEFINITION) > 0
        self._known = self._of(tx) if self.any else Known({}, (), {})

    def start(self, tx: Tx, moment: Moment) -> None:
        """Bring what another program left in line with how this one understands it."""
        if self.any:
            life.settle(tx, self.workspace, None, self._known, b"", moment)

    def decide(self, tx: Tx, place: bytes, body: bytes, moment: Moment) -> None:
        """Let a decision about a definition hold; one that this program does not understand stops nobody."""
        tx.put(self.workspace, Db.DEFINITION_FACT, place, body)
        key = outbox.key_of(moment.sequence, DEFINITION_FACTS.name)
        tx.put(self.workspace, Db.OUTBOX, key, outbox.pack(fact_rows([(place, body)])))
        # What was missing may be there now.
        self._faulty = {one: why for one, why in self._faulty.items() if one in self._ours}
        before, now = self._known, self._of(tx)
        life.settle(tx, self.workspace, before, now, place, moment)
        try:
            fact = facts.decode(body)
        except Invalid:
            pass  # said where all of them are read
        else:
            if isinstance(fact, Resync) and not fact.destination:
                life.resync(tx, self.workspace, fact.key, place)
        handover.drop_waiting(tx, self.workspace)
        self._known, self.any = now, True
        reach("computed.decided")

    def give_up(self, tx: Tx, fault: Faulty, moment: Moment) -> None:
        """Go on without definitions that brought out a fault of this program, until it is started again."""
        before = self._known
        versions = {(key, before.held[key].version): str(fault) for key in fault.keys}
        self._faulty |= versions
        if fault.ours:
            self._ours |= versions.keys()
        self._known = self._of(tx)
        life.settle(tx, self.workspace, before, self._known, b"", moment)

    def apply(self, work: Working, brought: Brought, at: int) -> None:
        """Fold what a micro-batch brought and announce what it changed; `work` is flushed.

        Raises:
            Faulty: a fault of this program in computing them; events must not wait for it.
        """
        if self.any:
            with self._blamed():
                self._apply(work, brought, at)

    def _apply(self, work: Working, brought: Brought, at: int) -> None:
        tx, workspace = work.tx, self.workspace
        records, kept = self._now(tx)
        sets = self._fold(tx, work.sequence, brought.events, kept)
        if brought.writes is not None and brought.writes.num_rows:
            sets |= self._written(brought.writes)
        reach("computed.folded")
        due = self._due(tx, at)
        regrouped = frozenset(work.written(Db.PROFILE))
        people_of = set(work.written(Db.SET))
        linked: set[bytes] = set()
        if brought.links is not None and brought.links.num_rows:
            people_of |= _keys(brought.links, "set_id")
            linked = _keys(brought.links, "account_set_id")
        heads = tx.decoded(workspace, Db.SET, sets | linked, decode_set_head)
        keys = {head.profile for head in heads.values() if head.profile} | regrouped | brought.accounts
        if not (keys or due):
            return
        evaluation = Evaluation(tx, workspace, work.sequence, at, self._known, records, kept)
        ordered = sorted(keys)
        evaluation.run([*ordered[:EVALUATED_MAX], *due], people_of, _why(brought, regrouped, due))
        evaluation.put_off(ordered[EVALUATED_MAX:], at)
        self._end(evaluation)

    def standing(self, tx: Tx, at: int) -> "Standing":
        """Return where definitions stand, how late the first timer is, and what partials take."""
        first = next(tx.keys(self.workspace, Db.TIMER), None)
        late = 0 if first is None else max(0, at - int.from_bytes(first[:8], "big"))
        return Standing(
            Counter(record.status for record in self._records(tx).values()),
            late,
            sum(tx.bytes_used(self.workspace, db) for db in _PARTIALS),
        )

    def waits(self, tx: Tx, at: int) -> bool:
        """Tell whether `tend` would have something to do."""
        if not self.any:
            return False
        if due_profiles(tx, self.workspace, at, 1):
            return True
        records, kept = self._records(tx), definitions_now.steps(tx, self.workspace)
        return (
            any(record.sweeping for record in records.values())
            or any(record.reached and not record.complete for record in kept.values())
            or bool(life.ready(self._known, records, kept))
        )

    def tend(self, tx: Tx, sequence: int, at: int) -> None:
        """Go on, for one micro-batch, with what time and decisions bring: timers, sweeps, what a backfill left.

        Raises:
            Faulty: as `apply`.
        """
        if self.any:
            with self._blamed():
                self._tend(tx, sequence, at)

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        """Blame a fault that nobody foresaw on all definitions: which of them it was, only `fold` and `answers` tell."""
        try:
            yield
        except (*PASSED_ON, Faulty):
            raise
        except Exception as error:
            keys = [planned.held.definition.key for planned in self._known.plan]
            if not keys:
                raise  # there is nothing left to give up
            raise Faulty(self.workspace, keys, error) from error

    def _tend(self, tx: Tx, sequence: int, at: int) -> None:
        handover.merge_waiting(tx, self.workspace)
        records, kept = self._now(tx)
        evaluation = Evaluation(tx, self.workspace, sequence, at, self._known, records, kept)
        if due := self._due(tx, at):
            evaluation.run(due, (), Why(due=due))
        self._sweep(tx, evaluation, records)
        self._end(evaluation)

    # ---- parts of a micro-batch ----------------------------------------------------------------

    def _of(self, tx: Tx) -> Known:
        return Known.of(definitions_now.held(tx, self.workspace), self._faulty)

    def _records(self, tx: Tx) -> dict[str, DefinitionRecord]:
        return definitions_now.records(tx, self.workspace)

    def _now(self, tx: Tx) -> tuple[dict[str, DefinitionRecord], Mapping[bytes, StepRecord]]:
        """Return where computations stand; those begin whose steps are complete."""
        records, kept = self._records(tx), definitions_now.steps(tx, self.workspace)
        if any(record.status == BACKFILLING for record in records.values()):
            life.advance(tx, self.workspace, self._known, records, kept)
        return records, kept

    def _fold(
        self, tx: Tx, sequence: int, events: pa.Table | None, kept: Mapping[bytes, StepRecord]
    ) -> set[bytes]:
        """Fold events for all steps; return the sets that complete ones have something new of."""
        if events is None or not events.num_rows or not kept:
            return set()
        complete: list[Numbered] = []
        waiting: list[Numbered] = []
        for digest, step in self._known.step_list().items():
            record = kept[digest]
            (complete if record.complete else waiting).append(Numbered(record.number, step))
        touched: set[bytes] = set()
        if complete:
            partials = self._folded(events, complete)
            touched = pending.sets_of(partials)
            if not pending.is_empty(partials):
                stored.add(tx, self.workspace, partials, self._known.numbered(kept))
        if waiting:
            handover.keep_waiting(tx, self.workspace, sequence, self._folded(events, waiting))
        return touched

    def _folded(self, events: pa.Table, steps: list[Numbered]) -> Partials:
        try:
            return fold(events, steps)
        except PASSED_ON:
            raise
        except Exception as error:
            found = {one.step.digest for one in steps if not works(partial(fold, events, [one]))}
            asked = {one.step.digest for one in steps}
            raise Faulty.of(self.workspace, error, self._known.plan, found or asked) from error

    def _written(self, writes: pa.Table) -> set[bytes]:
        """Return the sets for which traits were written that any definition reads."""
        reads = sorted({name for planned in self._known.plan for name in planned.reads})
        if not reads:
            return set()
        asked = pc.is_in(writes.column("trait"), value_set=pa.array(reads, pa.string()))
        return _keys(writes.filter(asked), "set_id")

    def _due(self, tx: Tx, at: int) -> dict[bytes, int]:
        """Return the profiles whose time has come, with when it was."""
        return {
            key[8:]: int.from_bytes(key[:8], "big")
            for key in islice(tx.keys(self.workspace, Db.TIMER), TIMERS_MAX)
            if int.from_bytes(key[:8], "big") <= at
        }

    def _sweep(self, tx: Tx, evaluation: Evaluation, records: dict[str, DefinitionRecord]) -> None:
        """Go through the next profiles for definitions that are new, or gone."""
        sweeping = [record for record in records.values() if record.sweeping]
        if not sweeping:
            return
        start = min(record.swept for record in sweeping)
        read = frozenset[str]().union(*(planned.reads for planned in self._known.plan))
        gone_only = all(record.status in WITHDRAWN and record.key not in read for record in sweeping)
        following = list(islice(self._behind(tx, start, gone_only=gone_only), SWEEP_PROFILES))
        keys = evaluation.fitting(following)
        end = keys[-1] if len(keys) < len(following) or len(keys) == SWEEP_PROFILES else _LAST
        mine = [record for record in sweeping if record.swept <= end]
        why = Why(sweep={record.number: (record.cause, record.caused_by) for record in mine})
        evaluation.run(keys, (), why)
        changed: dict[str, DefinitionRecord] = {}
        for record in mine:
            over = end == _LAST
            begun = record.status == COMPUTING and record.kind not in SQL
            status = LIVE if over and begun else record.status
            changed[record.key] = msgspec.structs.replace(
                record, status=status, swept=b"" if over else end, sweeping=not over
            )
        records.update(changed)
        definitions_now.put_records(tx, self.workspace, changed)
        reach("computed.swept")

    def _behind(self, tx: Tx, start: bytes, *, gone_only: bool) -> Iterator[bytes]:
        """Yield, in order, the profiles behind one: those there are, and those that are worth something."""
        ways = [tx.keys(self.workspace, Db.COMPUTED, start)]
        if not gone_only:
            ways.append(tx.keys(self.workspace, Db.PROFILE, start))
        last = start
        for key in merge(*ways):
            if key != last:
                last = key
                yield key

    def _end(self, evaluation: Evaluation) -> None:
        evaluation.finish()
        self.counted.evaluated += evaluation.evaluated
        self.counted.changes += evaluation.changes
        reach("computed.announced")


def _why(brought: Brought, regrouped: frozenset[bytes], due: Mapping[bytes, int]) -> Why:
    found: dict[bytes, bytes] | None = None

    def newest() -> dict[bytes, bytes]:
        # Only asked for where something changed: most micro-batches change little.
        nonlocal found
        if found is None:
            found = {}
            if brought.events is not None:
                positions = brought.events.column("position").to_pylist()
                for name in ("set_id", "account_set_id"):
                    for key, position in zip(brought.events.column(name).to_pylist(), positions, strict=True):
                        if key is not None:
                            found[key] = max(position, found.get(key, b""))
        return found

    last = b""
    if brought.events is not None and brought.events.num_rows:
        last = brought.events.column("position")[-1].as_py()
    return Why(newest, last, brought.decided, regrouped, due)


def _keys(rows: pa.Table, name: str) -> set[bytes]:
    return {key for key in pc.unique(rows.column(name)).to_pylist() if key is not None}
