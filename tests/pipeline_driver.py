"""The pipeline in this process: records in, state and tables out; no server, no thread, no waiting."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import duckdb
import pyarrow as pa
from prometheus_client import CollectorRegistry

from profilelake.audiences import facts as defining
from profilelake.audiences import handover
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import Engine
from profilelake.eventlog import Damage, Flags, Kind, LogEnd, Record, Slice
from profilelake.identity import facts
from profilelake.identity import publish as identity_rows
from profilelake.identity.standing import rules_in_force
from profilelake.identity.tables import IDENTIFIERS, IDENTITY_MAP, IDENTITY_REFUSALS, SET_MAP
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import attach
from profilelake.landing import dedup
from profilelake.landing.tables import EVENTS
from profilelake.pipeline import publish, remaking
from profilelake.pipeline import verify as holding
from profilelake.pipeline.batch import Batcher, WorkspaceSetup
from profilelake.pipeline.history import EventHistory
from profilelake.pipeline.metrics import Stages, Timer
from profilelake.pipeline.progress import Applied, Published, load_applied, load_published
from profilelake.pipeline.publish import Publisher, check_epoch, ensure_tables
from profilelake.plans.rebuild import Cutting, rebuild_on
from profilelake.profiles.memberships import members_page
from profilelake.profiles.publish import profile_changes
from profilelake.profiles.tables import PROFILES
from profilelake.semantics.consent import DEFAULT_POLICY, Policy
from profilelake.semantics.definitions import Definition
from profilelake.semantics.identifiers import public_id
from profilelake.semantics.rules import IdentityRules, TypeRule
from profilelake.state import activity, recent
from profilelake.state.computed import ChangeRecord, changes_after, decode_computed, definition_records
from profilelake.state.records import collection_name
from profilelake.state.store import Db, State, Tx
from profilelake.traits.fold import fold
from profilelake.traits.partials import Numbered

WORKSPACE: Final = "default"
KEY: Final = b"0123456789abcdef"
START: Final = 1_772_359_210_000_000
"""2026-03-01T10:00:10Z, when the first record is received."""
SECOND: Final = 1_000_000
BACKFILLED_ROWS: Final = 7
"""Events that a backfill puts at a time."""
Message = dict[str, Any]
Rows = list[tuple[Any, ...]]


def tight_rules() -> IdentityRules:
    """Return rules so tight that small histories meet limits, refusals and blocked values."""
    blocked = frozenset({"null"})
    return IdentityRules(
        version=1,
        types=(
            TypeRule("user_id", 1, limit=1, blocked_exact=blocked),
            TypeRule("email", 2, limit=2, blocked_exact=blocked),
            TypeRule("anonymous_id", 3, limit=2, blocked_exact=blocked),
            TypeRule("group_id", 1, collection="accounts", limit=1, blocked_exact=blocked),
        ),
    )


def small_limits(set: Callable[[ModuleType, str, int], object]) -> None:
    """Make spills, merges and limits frequent; `set` is `setattr` or that of a monkeypatch."""
    set(dedup, "MEMORY_ROWS_MAX", 5)
    set(dedup, "FAN_IN", 2)
    set(recent, "FAN_IN", 2)
    set(publish, "ACTIVITY_EVENTS_MAX", 2)


class LogBuilder:
    """Makes the records of one log, with offsets and counts as its writer would."""

    def __init__(self, log_id: str) -> None:
        self.log_id = log_id
        self._end = LogEnd(0, 0)

    def record(
        self, received_at: int, messages: Sequence[Message], *, body: bytes | None = None, **facts: Any
    ) -> Record:
        """Return the next record: a batch of messages, or another body and what is told of it."""
        body = json.dumps({"batch": list(messages)}).encode() if body is None else body
        record = Record(
            received_at=received_at,
            region="local",
            log_id=self.log_id,
            offset=self._end.offset,
            next_offset=self._end.offset + len(body) + 40,
            events_before=self._end.events,
            workspace=WORKSPACE,
            source_id="shop",
            kind=Kind.BATCH,
            flags=Flags.NONE,
            events=len(messages),
            extraction_version=1,
            ip="",
            sent_at="",
            body=body,
        )._replace(**facts)
        self._end = LogEnd(record.next_offset, record.events_before + record.events)
        return record

    def decision(self, received_at: int, fact: facts.Fact) -> Record:
        """Return the next record: what somebody decided about identity."""
        return self.record(received_at, (), body=facts.encode(fact), kind=Kind.FACT, source_id="")

    def definition(self, received_at: int, fact: defining.Fact) -> Record:
        """Return the next record: what somebody decided about a computed trait or audience."""
        return self.record(received_at, (), body=defining.encode(fact), kind=Kind.FACT, source_id="")

    def define(self, received_at: int, key: str, query: str, **told: Any) -> Record:
        """Return the next record: an audience of this condition, or with `kind="trait"` a computed trait."""
        told = {"kind": "audience", "external_ids": (), **told}
        return self.definition(
            received_at, defining.Define(by="test", definition=Definition(key, query=query, **told))
        )


class Desk:
    """One data directory and the parts that work on it. `clock` is moved by the test."""

    def __init__(
        self,
        directory: Path,
        *,
        rules: IdentityRules | None = None,
        region: str = "local",
        untrusted: frozenset[str] = frozenset(),
        consent_policy: Policy = DEFAULT_POLICY,
    ) -> None:
        self.directory = directory
        self.setup = WorkspaceSetup(
            name=WORKSPACE,
            rules=rules or tight_rules(),
            identifier_key=KEY,
            recent_directory=directory / "recent",
            dedup_directory=directory / "dedup",
            untrusted=lambda: untrusted,
            consent_policy=consent_policy,
        )
        self.now = START + 3600 * SECOND
        self._rebuilt = False
        self._region = region
        self.open()

    def clock(self) -> int:
        return self.now

    def open(self) -> None:
        """Start as the pipeline process does: everything is taken from the disk."""
        self.now += SECOND
        self.state = State.open(self.directory / "state", writable=True)
        self.setup = replace(self.setup, history=EventHistory(lambda: self.lake, self.setup.recent_directory))
        self.batcher = Batcher(
            self.state, [self.setup], self._region, self.now, Timer(Stages(CollectorRegistry()))
        )
        self.__dict__.pop("lake", None)

    @cached_property
    def lake(self) -> Lake:
        return self._open_lake()

    def _open_lake(self) -> Lake:
        lake = Lake.open(f"sqlite:///{self.directory / 'catalog.sqlite'}", self.directory / "lake")
        ensure_tables(lake, WORKSPACE)
        return lake

    @property
    def publisher(self) -> Publisher:
        return Publisher(
            workspace=WORKSPACE,
            state=self.state,
            lake=self.lake,
            recent_directory=self.setup.recent_directory,
            rules=self.setup.rules,
            clock=self.clock,
            publish_age_seconds=300.0,
        )

    def close(self) -> None:
        self.state.close()
        if "lake" in self.__dict__:
            self.lake.close()

    def restart(self) -> None:
        self.close()
        self.open()

    def apply(self, records: Sequence[Record], damage: Sequence[Damage] = ()) -> None:
        """Apply records as one micro-batch."""
        self.batcher.apply(self.slice(records, damage))

    def slice(self, records: Sequence[Record], damage: Sequence[Damage] = ()) -> Slice:
        """Return records in position order as the log's reader gives them."""
        ordered = sorted(records, key=lambda r: (r.received_at, r.log_id, r.offset))
        ends = dict(self.batcher.vector())
        for record in ordered:
            ends[record.log_id] = LogEnd(record.next_offset, record.events_before + record.events)
        watermark = ordered[-1].received_at if ordered else START
        return Slice(ordered, ends, watermark, (), tuple(damage))

    def tick(self, at: int) -> int:
        """Let time pass, and definitions go on as far as they can; return in how many micro-batches."""
        steps = 1
        while self.batcher.tend_computing(at):
            steps += 1
        return steps

    def events(self, through: int | None = None) -> pa.Table:
        """Return all events that were accepted, or those of the micro-batches through one."""
        if self._rebuilt:  # runs go back only so far
            self.publish()
            with duckdb.connect() as connection:
                attach(connection, self.lake, WORKSPACE)
                return EVENTS.shape(connection.table("events").to_arrow_table())
        with self.state.read(WORKSPACE) as tx:
            runs = recent.load(tx, WORKSPACE)
        whole = [
            recent.read_whole(self.setup.recent_directory, run, EVENTS.schema().names)
            for run in runs
            if through is None or run.sequence_max <= through
        ]
        return pa.concat_tables([EVENTS.schema().empty_table(), *whole])

    def backfill(self, *, finish: bool = True, through: int | None = None) -> bool:
        """Fold the events there are for new definitions, as the lake's process does; tell whether any waited.

        Only those of the micro-batches `through` one, where it is given; the others are kept beside.
        """
        with self.state.read(WORKSPACE) as tx:
            steps = handover.incomplete(tx, WORKSPACE)
        if not steps:
            return False
        events = self.events(through)
        reached = self.applied().sequence if through is None else through
        numbers = handover.begin_attempt(self.state, WORKSPACE, steps)
        numbered = [Numbered(number, steps[digest].step) for digest, number in numbers.items()]
        for start in range(0, events.num_rows, BACKFILLED_ROWS):
            part = fold(events.slice(start, BACKFILLED_ROWS), numbered)
            handover.put_part(self.state, WORKSPACE, part)
        if finish:
            handover.finish(self.state, WORKSPACE, reached)
        return True

    def settle(self, at: int) -> None:
        """Have every definition live, as of a time."""
        self.backfill()
        self.tick(at)

    def values(self) -> dict[tuple[str, str], str]:
        """Return what definitions are worth in the state, by key and public id of the profile."""
        with self.state.read(WORKSPACE) as tx:
            keys = {record.number: key for key, record in definition_records(tx, WORKSPACE).items()}
            return {
                (
                    keys[number],
                    public_id(collection_name(tx.sets(WORKSPACE, [key])[key].collection), key),
                ): value.value
                for key, body in tx.items(WORKSPACE, Db.COMPUTED)
                for number, value in decode_computed(body).values.items()
            }

    def members(self, key: str) -> set[str]:
        """Return the public ids of the members of an audience, as the state has them."""
        return {profile for of, profile in self.values() if of == key}

    def statuses(self) -> dict[str, str]:
        """Return where each definition stands."""
        with self.state.read(WORKSPACE) as tx:
            return {key: record.status for key, record in definition_records(tx, WORKSPACE).items()}

    def changes(self) -> list[ChangeRecord]:
        """Return everything that was announced, in order."""
        with self.state.read(WORKSPACE) as tx:
            return [change for _, change in changes_after(tx, WORKSPACE, b"", 1_000_000)]

    def publish(self, *, whole: bool = True) -> bool:
        return self.publisher.publish(whole=whole)

    def tend(self) -> None:
        """Do all the maintenance that is due."""
        self.publisher.tend_runs()
        self.publisher.merge()

    def check_epoch(self) -> None:
        check_epoch(self.state, self.lake, WORKSPACE)

    def verify(self) -> list[str]:
        """Publish what is waiting; return how state and tables differ from the facts."""
        self.publish()
        return [f"{d.what}: {d.detail}" for d in holding.verify(self.setup, self.state, self.lake)]

    def rebuild(self) -> dict[str, Any]:
        """Stop, make everything again from the lake, start."""
        self.close()
        self.now += SECOND
        lake = self._open_lake()
        try:
            return remaking.rebuild(self.setup, self.directory / "state", lake, self.now)
        finally:
            lake.close()
            self._rebuilt = True
            self.open()

    def rebuild_by_plan(
        self,
        cutting: Cutting | None = None,
        report: Callable[[str], None] = lambda _: None,
        engine: Engine | None = None,
    ) -> dict[str, Any]:
        """Do the same part by part, on the engine of one machine or another one."""
        self.close()
        self.now += SECOND
        lake = self._open_lake()
        try:
            engine = engine or EmbeddedEngine(self.directory / "engine")
            state = self.directory / "state"
            return rebuild_on(engine, self.setup, state, lake, self.now, report, cutting)
        finally:
            lake.close()
            self._rebuilt = True
            self.open()

    def rules(self) -> IdentityRules:
        """Return the rules in force."""
        with self.state.read(WORKSPACE) as tx:
            return rules_in_force(tx, WORKSPACE, self.setup.rules)

    def applied(self) -> Applied:
        with self.state.read(WORKSPACE) as tx:
            return load_applied(tx, WORKSPACE, "")

    def published(self) -> Published:
        with self.state.read(WORKSPACE) as tx:
            return load_published(tx, WORKSPACE)

    def state_tables(self) -> dict[str, Rows]:
        """Return the current tables as the state would publish them, whole and sorted, and the account links."""
        activity.settle(self.state, WORKSPACE, self.setup.recent_directory)
        with self.state.read(WORKSPACE) as tx:
            sets, idents, profiles = (
                [key for key, _ in tx.items(WORKSPACE, db)] for db in (Db.SET, Db.IDENT, Db.PROFILE)
            )
            version = self.rules().version
            changes = {
                SET_MAP.name: identity_rows.set_map_changes(tx, WORKSPACE, sets, 0),
                IDENTIFIERS.name: identity_rows.identifier_changes(tx, WORKSPACE, idents, 0),
                IDENTITY_MAP.name: identity_rows.identity_map_changes(tx, WORKSPACE, idents, 0),
                IDENTITY_REFUSALS.name: identity_rows.refusal_changes(tx, WORKSPACE, sets, 0, version),
                PROFILES.name: profile_changes(tx, WORKSPACE, profiles, 0),
            }
            links = account_links(tx)
        return {"links": links} | {
            name: _rows(row for row in table.to_pylist() if row.pop("op") == "upsert" and row.pop("seq") == 0)
            for name, table in changes.items()
        }

    def lake_tables(self, *names: str) -> dict[str, Rows]:
        """Return published tables, whole and sorted."""
        with duckdb.connect() as connection:
            attach(connection, self.lake, WORKSPACE)
            return {name: _rows(connection.table(name).to_arrow_table().to_pylist()) for name in names}


def account_links(tx: Tx) -> Rows:
    """Return person, account, and when their link began and ended; both directions must tell the same."""
    records = tx.profiles(WORKSPACE, [key for key, _ in tx.items(WORKSPACE, Db.PROFILE)])
    ways: tuple[Rows, Rows] = ([], [])
    for key, record in records.items():
        collection = collection_name(record.collection)
        after: bytes | None = b""
        while after is not None:
            page, after = members_page(tx, WORKSPACE, collection, record, after, 2)
            for link in page:
                pair = (key, link.other_profile) if collection == "users" else (link.other_profile, key)
                row = (public_id("users", pair[0]), public_id("accounts", pair[1]))
                ways[record.collection].append((*row, link.linked_at, link.unlinked_at))
    assert sorted(ways[0], key=repr) == sorted(ways[1], key=repr)
    return sorted(ways[0], key=repr)


def _rows(rows: Iterable[Mapping[str, Any]]) -> Rows:
    return sorted((tuple(row.values()) for row in rows), key=repr)
