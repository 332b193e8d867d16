"""One micro-batch: records of the log into the state, in one transaction."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from profilelake.activate.retention import note_touched
from profilelake.audiences.facts import is_about_definitions
from profilelake.audiences.faults import Faulty
from profilelake.audiences.life import Moment
from profilelake.audiences.live import Brought, Computing, Counted, Standing
from profilelake.errors import Corrupt, Internal, Invalid, Unavailable
from profilelake.eventlog import Damage, Kind, LogEnd, Record, Slice
from profilelake.identity import facts
from profilelake.identity.resolve import History, Resolver
from profilelake.identity.rows import IdentityRows
from profilelake.identity.sync import announce
from profilelake.identity.sync_tables import EXTERNAL_ID_MAPPING_UPDATES, ID_GRAPH_UPDATES
from profilelake.identity.tables import IDENTIFIER_SETS, IDENTITY_FACTS, IDENTITY_UPDATES
from profilelake.lake.tables import TableDef
from profilelake.landing.dedup import DedupIndex
from profilelake.landing.land import Landed, Landing, damage_rows
from profilelake.landing.suppress import Listed, nobody
from profilelake.landing.tables import EVENT_COPIES, EVENTS, FAILED_EVENTS
from profilelake.ops.clock import wall
from profilelake.ops.failpoints import reach
from profilelake.pipeline.metrics import Timer
from profilelake.pipeline.outcomes import Recording
from profilelake.pipeline.progress import PROGRESS, TOTALS, Applied, load_applied
from profilelake.pipeline.publish import outbox_key, pack
from profilelake.pipeline.recent_runs import run_rows
from profilelake.profiles.consent import policy_in_force, store_policy
from profilelake.profiles.fold import fold_traits
from profilelake.profiles.fold_consent import fold_consent
from profilelake.profiles.fold_links import fold_leave, fold_links
from profilelake.profiles.journal import REGROUPED, regrouped
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES, TRAIT_WRITES
from profilelake.semantics.consent import Policy
from profilelake.semantics.identity import common_window
from profilelake.semantics.positions import Position
from profilelake.semantics.rules import COLLECTIONS, IdentityRules
from profilelake.state import recent
from profilelake.state.records import NOBODY, received_at
from profilelake.state.store import Db, State, Tx
from profilelake.state.working import Working

TRUST_SECONDS: Final = 1.0
"""How often it is asked which sources are open to strangers."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkspaceSetup:
    """What the pipeline must know of a workspace: its rules, its key, its folders, who is suppressed.

    `rules` hold until a decision says others. Without a `tail_directory` nobody can watch; without a
    `history` no event can be retracted. `untrusted` tells which sources are open to strangers.
    `consent_policy` brings together what the sets of one profile say; None keeps the one in force.
    """

    name: str
    rules: IdentityRules
    identifier_key: bytes
    recent_directory: Path
    dedup_directory: Path
    tail_directory: Path | None = None
    suppressed: Listed = nobody
    history: History | None = None
    untrusted: Callable[[], frozenset[str]] = frozenset
    consent_policy: Policy | None = None


class Batcher:
    """Applies slices of the log to the state of all workspaces. The only writer of facts there."""

    def __init__(
        self, state: State, workspaces: Sequence[WorkspaceSetup], region: str, now: int, timer: Timer
    ) -> None:
        self._state = state
        self._timer = timer
        self._setups = {setup.name: setup for setup in workspaces}
        self._resolvers = {
            setup.name: Resolver(setup.rules, history=setup.history, untrusted=setup.untrusted)
            for setup in workspaces
        }
        self._region = region
        self._epoch = f"{now:020d}"
        state.ensure(list(self._setups))
        self._landings: dict[str, Landing] = {}
        self._computing = {name: Computing(name) for name in self._setups}
        self._trusted_at = time.monotonic()
        self._recordings = {
            setup.name: Recording(setup.tail_directory, self._counted(setup.name), wall)
            for setup in workspaces
            if setup.tail_directory
        }
        self.look()
        self._take_policies()
        self.reload()
        self._start_computing()

    def reload(self) -> None:
        """Take everything kept in memory from the state again; needed after a transaction failed."""
        for setup in self._setups.values():
            resolver = self._resolvers[setup.name]
            with self._state.read(setup.name) as tx:
                index = DedupIndex.load(tx, setup.name, setup.dedup_directory)
                resolver.load(tx, setup.name)
                self._computing[setup.name].load(tx)
            self._landings[setup.name] = Landing(
                key=setup.identifier_key, rules=resolver.rules, index=index, suppressed=setup.suppressed
            )

    def _take_rules(self) -> None:
        """Read identifiers as the rules in force say, from the next event on."""
        for name, setup in self._setups.items():
            self._landings[name] = Landing(
                key=setup.identifier_key,
                rules=self._resolvers[name].rules,
                index=self._landings[name].index,
                suppressed=setup.suppressed,
            )

    def _take_policies(self) -> None:
        """Let the policies for consent hold; where one has changed, profiles are to be published anew."""
        for name, setup in self._setups.items():
            policy = setup.consent_policy
            with self._state.read(name) as tx:
                if policy is None or policy == policy_in_force(tx, name):
                    continue
            with self._state.write() as tx:
                applied = load_applied(tx, name, self._epoch)
                applied.sequence += 1
                work = Working(tx, name, applied.sequence)
                for key in tx.keys(name, Db.CONSENT):
                    work.publish_consent(key, changed=True)
                work.flush()
                store_policy(tx, name, policy)
                tx.put_meta(name, PROGRESS, applied)

    def _start_computing(self) -> None:
        """Bring definitions that another program left in line with how this one understands them."""
        for name, computing in self._computing.items():
            if computing.any:
                with self._state.write() as tx:
                    applied = load_applied(tx, name, self._epoch)
                    computing.start(tx, Moment(applied.sequence, applied.position))

    def look(self) -> None:
        """See who watches; between micro-batches, so that a newcomer misses nothing of the next one."""
        for name, recording in self._recordings.items():
            recording.look(partial(self._counted, name))
        now = time.monotonic()
        if now - self._trusted_at >= TRUST_SECONDS:
            self._trusted_at = now
            for name, resolver in self._resolvers.items():
                resolver.trust(self._setups[name].untrusted())

    def _counted(self, name: str) -> int:
        """Return how many events of a workspace are applied, whatever became of them."""
        with self._state.read(name) as tx:
            return sum(load_applied(tx, name, self._epoch).totals.values())

    def vector(self) -> dict[str, LogEnd]:
        """Return how far the log has been applied, for all workspaces alike."""
        name = next(iter(self._setups))
        with self._state.read(name) as tx:
            return load_applied(tx, name, self._epoch).ends()

    def apply(self, slice: Slice) -> None:
        """Apply a slice. Records that cannot be processed become dead letters and stop nobody.

        Raises:
            Unavailable: disk full or the like: nothing was applied, the same slice may be retried.
            Corrupt: the state contradicts itself.
        """
        records, damage = slice.records, slice.damage
        while (end := self._end_of_piece(records)) < len(records):
            passed = self._apply_front(records[:end], damage)
            records = records[end:]
            damage = tuple(stretch for stretch in damage if stretch not in passed)
        self._apply(records, slice.ends, damage, slice.watermark)

    def _end_of_piece(self, records: Sequence[Record]) -> int:
        """Return how many records to apply together: a decision is alone, and no window ends among them."""
        windows = [
            window
            for resolver in self._resolvers.values()
            for collection in COLLECTIONS
            if (window := common_window(resolver.rules, collection)) is not None
        ]
        for end in range(1, len(records)):
            before, after = records[end - 1], records[end]
            if before.kind is Kind.FACT or after.kind is Kind.FACT:
                return end
            if any(before.received_at // window != after.received_at // window for window in windows):
                return end
        return len(records)

    def _apply(
        self,
        records: Sequence[Record],
        ends: Mapping[str, LogEnd],
        damage: Sequence[Damage],
        watermark: int,
    ) -> None:
        try:
            self._transact(records, ends, damage, watermark, detail=None)
            return
        except (Unavailable, Corrupt, OSError, MemoryError):
            self.reload()
            raise
        except Faulty as fault:
            self._give_up(fault)
            self._apply(records, ends, damage, watermark)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, it is found and set aside below
            # A fault of ours that some record brings out must not stop all others for ever.
            _log.exception("processing %d records failed; looking for the one that causes it", len(records))
            self.reload()
            if len(records) <= 1:
                detail = f"processing failed: {type(error).__name__}"
                self._transact(records, ends, damage, watermark, detail=detail)
                return
        half = len(records) // 2
        passed = self._apply_front(records[:half], damage)
        self._apply(records[half:], ends, [d for d in damage if d not in passed], watermark)

    def _give_up(self, fault: Faulty) -> None:
        """Go on without definitions that cannot be computed; events must not wait for them."""
        _log.error("definitions %s are given up", ", ".join(sorted(fault.keys)), exc_info=fault.__cause__)
        self.reload()
        with self._state.write() as tx:
            applied = load_applied(tx, fault.workspace, self._epoch)
            moment = Moment(applied.sequence, applied.position)
            self._computing[fault.workspace].give_up(tx, fault, moment)

    def _apply_front(self, records: Sequence[Record], damage: Sequence[Damage]) -> Sequence[Damage]:
        """Apply the first records of a slice by themselves; return the damage that lies before their end."""
        reached = dict(self.vector())
        for record in records:
            reached[record.log_id] = LogEnd(record.next_offset, record.events_before + record.events)
        passed = [stretch for stretch in damage if _lies_before(stretch, reached)]
        self._apply(records, reached, passed, records[-1].received_at)
        return passed

    def _transact(
        self,
        records: Sequence[Record],
        ends: Mapping[str, LogEnd],
        damage: Sequence[Damage],
        watermark: int,
        *,
        detail: str | None,
    ) -> None:
        by_workspace: dict[str, list[Record]] = {name: [] for name in self._setups}
        fallback = next(iter(self._setups))
        for record in records:
            if record.workspace in by_workspace:
                by_workspace[record.workspace].append(record)
            elif record.kind is not Kind.FACT:
                by_workspace[fallback].append(record)
            else:
                _log.error("a decision about workspace %s is passed over: there is none", record.workspace)
        became: list[_Became] = []
        for recording in self._recordings.values():
            recording.begin()
        self._timer.start()
        with self._state.write() as tx:
            for name, mine in by_workspace.items():
                applied = load_applied(tx, name, self._epoch)
                applied.sequence += 1
                _check_new(applied.vector, records)
                at = max(_pipeline_time(applied, records), watermark)
                if mine and mine[0].kind is Kind.FACT:
                    self._decide(tx, name, mine[0], applied, at)
                    mine = []
                lost = damage if name == fallback else ()
                if mine or lost:
                    became.append(self._stages(tx, name, mine, lost, applied, detail, at))
                applied.vector = {**applied.vector, **{log: (e.offset, e.events) for log, e in ends.items()}}
                applied.watermark = at
                tx.put_meta(name, PROGRESS, applied)
            reach("state.before_commit")
        reach("state.committed")
        if any(record.kind is Kind.FACT for record in records):
            self._take_rules()
        for recording in self._recordings.values():
            recording.show()
        for landing in self._landings.values():
            landing.index.sweep()
        self._timer.lap("commit")
        self._timer.applied(sum(record.events for record in records))
        for each in became:
            each.count(self._timer)

    def _stages(
        self,
        tx: Tx,
        name: str,
        records: Sequence[Record],
        damage: Sequence[Damage],
        applied: Applied,
        detail: str | None,
        at: int,
    ) -> "_Became":
        sequence = applied.sequence
        landing = self._landings[name]
        landed = landing.land(tx, records, sequence) if detail is None else landing.set_aside(records, detail)
        self._timer.lap("land")
        reach("landing.landed")
        work = Working(tx, name, sequence)
        resolver = self._resolvers[name]
        rows = resolver.apply(work, landed.sightings, landed.events, applied.position)
        if landed.copies.num_rows:
            resolver.move_back(work, landed.copies, rows)
        announced = announce(work, rows, landed.events, _pipeline_time(applied, records))
        self._timer.lap("identity")
        writes = fold_traits(work, landed.events)
        spells = fold_links(
            work,
            landed.events,
            landed.copies,
            resolver.held.leavings,
            partial(self._behind, tx, name),
        )
        statements = fold_consent(work, landed.events)
        self._timer.lap("profiles")
        work.flush()
        self._timer.lap("flush")
        resolver.note(work)
        note_touched(work, _pipeline_time(applied, records))
        reach("state.profiles")
        self._computing[name].apply(work, Brought(landed.events, writes, spells), at)
        self._timer.lap("computed")
        failed = pa.concat_tables([landed.failed, damage_rows(damage, applied.watermark, self._region)])
        waiting: tuple[tuple[TableDef, pa.Table], ...] = (
            (EVENT_COPIES, landed.copies),
            (FAILED_EVENTS, failed),
            (IDENTIFIER_SETS, rows.identifier_sets()),
            (IDENTITY_UPDATES, rows.identity_updates()),
            (ID_GRAPH_UPDATES, announced.ids),
            (EXTERNAL_ID_MAPPING_UPDATES, announced.mappings),
            (TRAIT_WRITES, writes),
            (ACCOUNT_LINKS, spells),
            (CONSENT_WRITES, statements),
            (REGROUPED, regrouped(work, rows, landed.events)),
        )
        _put_waiting(tx, name, sequence, waiting)
        reach("state.outbox")
        if landed.events.num_rows:
            run = recent.write(
                self._setups[name].recent_directory,
                run_rows(landed.events),
                sequence_min=sequence,
                sequence_max=sequence,
            )
            reach("recent.written")
            recent.store(tx, name, [*recent.load(tx, name), run])
            last = landed.events.column("position")[-1].as_py()
            applied.position = max(applied.position, last)
        self._timer.lap("recent")
        before = dict(applied.totals)
        _count(applied, landed, failed.num_rows)
        recording = self._recordings.get(name)
        if recording is not None:
            recording.write(landed, failed, sum(before.values()), sum(applied.totals.values()))
        return _Became(failed.column("reason"), before, applied.totals)

    def _decide(self, tx: Tx, name: str, record: Record, applied: Applied, at: int) -> None:
        """Let a decision hold, whatever it changes."""
        if is_about_definitions(record.body):
            moment = Moment(applied.sequence, applied.position)
            self._computing[name].decide(tx, _place(record), record.body, moment)
            return
        try:
            fact = facts.decode(record.body)
        except Invalid as error:
            raise Unavailable(
                f"applying the decision at offset {record.offset} of log {record.log_id}: {error}; "
                "a newer profilelake wrote it: start that one"
            ) from error
        place = _place(record)
        work = Working(tx, name, applied.sequence)
        resolver = self._resolvers[name]
        rows = resolver.decide(work, place, fact)
        spells = ACCOUNT_LINKS.schema().empty_table()
        left: frozenset[bytes] = frozenset()
        if isinstance(fact, facts.Leave):
            account = tx.ident(name, bytes.fromhex(fact.account))
            left = frozenset() if account is None else frozenset({account.profile} - {NOBODY})
            late = partial(self._behind, tx, name, place) if applied.position > place else None
            spells = fold_leave(work, fact, resolver.held, late)
        _put_decided(work, rows, spells, _pipeline_time(applied, [record]))
        resolver.note(work)
        self._computing[name].apply(work, Brought(links=spells, decided=place, accounts=left), at)

    def _behind(self, tx: Tx, name: str, position: bytes) -> pa.Table:
        history = self._setups[name].history
        if history is None:
            raise Internal("looking for group events: this process was given no history of events")
        return history.behind(tx, name, position)

    def tend_replays(self, *, wait_seconds: float = 0.0) -> bool:
        """Go on with what waits to be resolved again beside the micro-batches; tell whether more waits.

        Raises:
            Unavailable: disk full or the like; the replay begins anew.
        """
        waiting = False
        for name, resolver in self._resolvers.items():
            job = resolver.begin(partial(self._state.read, name), name)
            if job is not None:
                job.wait(wait_seconds)
                if job.ready():
                    self._finish_replay(name, resolver)
            waiting = waiting or bool(resolver.waiting)
        return waiting

    def _finish_replay(self, name: str, resolver: Resolver) -> None:
        try:
            with self._state.write() as tx:
                applied = load_applied(tx, name, self._epoch)
                applied.sequence += 1
                work = Working(tx, name, applied.sequence)
                rows = resolver.finish(work)
                at = _pipeline_time(applied, ())
                _put_decided(work, rows, ACCOUNT_LINKS.schema().empty_table(), at)
                self._computing[name].apply(work, Brought(), at)
                tx.put_meta(name, PROGRESS, applied)
                reach("state.before_commit")
            reach("state.committed")
        except Faulty as fault:
            self._give_up(fault)  # and the replay begins anew
        except BaseException:
            self.reload()
            raise

    def tend_computing(self, watermark: int) -> bool:
        """Go on, for one micro-batch, with what time and definitions bring; tell whether more waits.

        Raises:
            Unavailable: disk full or the like; nothing was done, call again.
        """
        more = False
        for name, computing in self._computing.items():
            if not self._waits(name, computing, watermark):
                continue
            self._timer.start()
            try:
                with self._state.write() as tx:
                    applied = load_applied(tx, name, self._epoch)
                    applied.sequence += 1
                    applied.watermark = max(applied.watermark, watermark)
                    computing.tend(tx, applied.sequence, applied.watermark)
                    tx.put_meta(name, PROGRESS, applied)
                    reach("state.before_commit")
                reach("state.committed")
            except Faulty as fault:
                self._give_up(fault)
                return True
            except BaseException:
                self.reload()
                raise
            self._timer.lap("computed")
            more = more or self._waits(name, computing, watermark)
        return more

    def computed(self) -> Counted:
        """Return what was computed since the last call."""
        found = Counted()
        for computing in self._computing.values():
            found = found.plus(computing.counted)
            computing.counted = Counted()
        return found

    def standing(self, watermark: int) -> Iterator[Standing]:
        """Yield where the definitions of each workspace stand that has any."""
        for name, computing in self._computing.items():
            if computing.any:
                with self._state.read(name) as tx:
                    yield computing.standing(tx, watermark)

    def _waits(self, name: str, computing: Computing, watermark: int) -> bool:
        if not computing.any:
            return False
        with self._state.read(name) as tx:
            return computing.waits(tx, max(load_applied(tx, name, self._epoch).watermark, watermark))

    def quarantined(self) -> int:
        """Return how many identifiers link nobody."""
        return sum(resolver.quarantined for resolver in self._resolvers.values())

    def waiting(self) -> Iterator[int]:
        """Yield since when each replay waits, in microseconds."""
        for resolver in self._resolvers.values():
            for pending in resolver.waiting:
                yield received_at(pending.position)


def _put_decided(work: Working, rows: IdentityRows, spells: pa.Table, at: int) -> None:
    """Write what a decision or a replay changed, and what is to be published of it."""
    announced = announce(work, rows, EVENTS.schema().empty_table(), at)
    work.flush()
    note_touched(work, at)
    waiting = (
        (IDENTITY_UPDATES, rows.identity_updates()),
        (ID_GRAPH_UPDATES, announced.ids),
        (EXTERNAL_ID_MAPPING_UPDATES, announced.mappings),
        (IDENTITY_FACTS, rows.identity_facts()),
        (ACCOUNT_LINKS, spells),
        (REGROUPED, regrouped(work, rows, EVENTS.schema().empty_table())),
    )
    _put_waiting(work.tx, work.workspace, work.sequence, waiting)
    reach("state.outbox")


def _pipeline_time(applied: Applied, records: Sequence[Record]) -> int:
    """Return a time that never goes back, in microseconds: no record of the past or of these is later."""
    return max([applied.watermark, *(record.received_at for record in records[-1:])])


def _place(record: Record) -> bytes:
    """Return the position of a decision."""
    return Position(record.received_at, record.region, record.log_id, record.offset, 0).to_bytes()


def _put_waiting(tx: Tx, name: str, sequence: int, waiting: Sequence[tuple[TableDef, pa.Table]]) -> None:
    for definition, table in waiting:
        if table.num_rows:
            tx.put(name, Db.OUTBOX, outbox_key(sequence, definition), pack(table))


@dataclass(frozen=True, slots=True)
class _Became:
    """What became of the events of one workspace: reasons of the failed ones, totals before and after."""

    reasons: pa.ChunkedArray
    before: Mapping[str, int]
    after: Mapping[str, int]

    def count(self, timer: Timer) -> None:
        failed = {found["values"]: found["counts"] for found in pc.value_counts(self.reasons).to_pylist()}
        duplicates, suppressed = (
            self.after.get(name, 0) - self.before.get(name, 0) for name in ("duplicates", "suppressed")
        )
        timer.became(failed, duplicates, suppressed)


def _check_new(vector: Mapping[str, tuple[int, int]], records: Sequence[Record]) -> None:
    """Stop where another process has applied these records meanwhile: our memory knows nothing of it."""
    first = {record.log_id: record.offset for record in reversed(records)}
    for log, offset in first.items():
        if log in vector and offset < vector[log][0]:
            raise Corrupt(
                f"applying log {log} from offset {offset}: the state is at {vector[log][0]} already; "
                "see that no other server works on this directory; a start of this one goes on from there"
            )


def _lies_before(stretch: Damage, vector: Mapping[str, LogEnd]) -> bool:
    end = vector.get(Path(stretch.path).parent.name)
    return end is not None and stretch.next_offset <= end.offset


def _count(applied: Applied, landed: Landed, failed: int) -> None:
    totals = {name: applied.totals.get(name, 0) for name in TOTALS}
    totals["in_lake"] += landed.events.num_rows
    totals["duplicates"] += landed.duplicates
    totals["failed"] += failed
    totals["suppressed"] += landed.suppressed
    applied.totals = totals
