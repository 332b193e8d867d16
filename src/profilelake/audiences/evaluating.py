"""Evaluate profiles in one transaction: load, ask, compare with what was announced, announce what differs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.audiences import definitions_now
from profilelake.audiences.announcing import Announcing, timer_position
from profilelake.audiences.definitions_now import Known
from profilelake.audiences.faults import PASSED_ON, Faulty, works
from profilelake.audiences.life import DEFINITION, EVALUATED, RESYNC, WITHDRAWN
from profilelake.audiences.loading import (
    Elsewhere,
    accounts_of_sets,
    counts,
    elsewhere,
    subjects,
    users_seen,
)
from profilelake.semantics.rules import COLLECTIONS, Collection
from profilelake.state.computed import (
    ComputedRecord,
    DefinitionRecord,
    StepRecord,
    decode_computed,
    put_computed,
)
from profilelake.state.heads import decode_set_head
from profilelake.state.records import ProfileRecord
from profilelake.state.store import Db, Tx
from profilelake.traits import stored
from profilelake.traits.answers import Answers, answers
from profilelake.traits.columns import NEVER, Subjects
from profilelake.traits.partials import Numbered, Partials
from profilelake.traits.steps import Plan, Planned

SLICE_PROFILES: Final = 4_096
"""Profiles that are in memory together, with their sets and partials."""
ACCOUNTS_PER_SLICE: Final = 64
"""Accounts that are: each may have many users, whose partials come along."""
ACCOUNT_USERS_MAX: Final = 10_000
"""An account that was seen with more sets of people is not evaluated with each of their events."""
USERS_AT_ONCE: Final = 10_000
"""Sets of people whose accounts one micro-batch evaluates; other accounts follow as if their time had come."""
ACCOUNT_SECONDS: Final = 60
"""How often such an account is evaluated at most."""

_Times = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Why:
    """What brings profiles to be evaluated, said of each change.

    `newest` gives the newest event of each set in this micro-batch, `last` is the newest of all; `decided` is
    the position of a decision about identity. `regrouped` are profiles that identity changed, `due` those
    whose time has come. `sweep` says with what definitions (by number) are gone through.
    """

    newest: Callable[[], Mapping[bytes, bytes]] = dict
    last: bytes = b""
    decided: bytes = b""
    regrouped: frozenset[bytes] = frozenset()
    due: Mapping[bytes, int] = field(default_factory=dict)
    sweep: Mapping[int, tuple[str, bytes]] = field(default_factory=dict)
    _known: dict[bytes, tuple[str, bytes]] = field(default_factory=dict)

    def of(self, profile: bytes, sets: Sequence[bytes], number: int, at: int) -> tuple[str, bytes]:
        """Return the cause of a change of a profile, and its position."""
        if self.sweep:
            return self._found(profile, sets, number, at)
        found = self._known.get(profile)
        if found is None:
            found = self._known[profile] = self._found(profile, sets, number, at)
        return found

    def _found(self, profile: bytes, sets: Sequence[bytes], number: int, at: int) -> tuple[str, bytes]:
        newest = self.newest()
        mine = max((newest[key] for key in sets if key in newest), default=b"")
        if mine:
            return "event", mine
        if profile in self.regrouped:
            return "identity", self.decided or self.last or timer_position(at, profile)
        if profile in self.due:
            return "timer", timer_position(self.due[profile], profile)
        if self.sweep:
            cause, position = self.sweep.get(number) or next(iter(self.sweep.values()))
            # What is told once more changes nothing; whoever folds changes leaves it out.
            return DEFINITION if cause == RESYNC else cause, position
        return ("event", self.last) if self.last else ("timer", timer_position(at, profile))


class Evaluation:
    """What one micro-batch evaluates. `records` and `kept` are read in its transaction."""

    def __init__(
        self,
        tx: Tx,
        workspace: str,
        sequence: int,
        at: int,
        known: Known,
        records: dict[str, DefinitionRecord],
        kept: Mapping[bytes, StepRecord],
    ) -> None:
        self._tx = tx
        self._workspace = workspace
        self._at = at
        self._records = records
        self._others: Mapping[str, Elsewhere] = elsewhere(known, records)
        self._plans: dict[Collection, Plan] = {
            collection: tuple(
                planned
                for planned in known.plan
                if planned.held.definition.target == collection
                and records[planned.held.definition.key].status in EVALUATED
            )
            for collection in COLLECTIONS
        }
        self._steps = {
            collection: [
                Numbered(kept[digest].number, step)
                for digest, step in sorted(
                    {step.digest: step for planned in plan for step in planned.steps.values()}.items()
                )
            ]
            for collection, plan in self._plans.items()
        }
        self._numbers = {digest: record.number for digest, record in kept.items()}
        self._by_number = {record.number: record for record in records.values()}
        self._announcing = Announcing(tx, workspace, sequence, at)
        self.evaluated = 0
        self._users_left = USERS_AT_ONCE

    @property
    def changes(self) -> int:
        """How many changes were announced."""
        return self._announcing.count

    @property
    def asks_accounts(self) -> bool:
        """Whether any definition is about accounts."""
        return bool(self._plans["accounts"])

    def fitting(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        """Return as many of these profiles, from the first on, as there is room for: accounts have many users."""
        if not self.asks_accounts:
            return keys
        found = self._tx.profiles(self._workspace, keys)
        left = self._users_left
        for number, key in enumerate(keys, 1):
            if key in found and found[key].collection:
                left -= self._users_seen(found[key])
                if left <= 0:
                    return keys[:number]
        return keys

    def run(self, keys: Iterable[bytes], people_of: Iterable[bytes], why: Why) -> None:
        """Evaluate profiles, and the accounts that people are linked with.

        `people_of` are sets of people besides those of the profiles: with what was seen with these, too.
        """
        ordered = sorted(set(keys))
        accounts: dict[bytes, ProfileRecord] = {}
        sets: set[bytes] = set(people_of) if self.asks_accounts else set()
        for start in range(0, len(ordered), SLICE_PROFILES):
            part = ordered[start : start + SLICE_PROFILES]
            found = self._tx.profiles(self._workspace, part)
            self._withdraw([key for key in part if key not in found], why)
            users = {key: found[key] for key in part if key in found and not found[key].collection}
            accounts |= {key: record for key, record in found.items() if record.collection}
            changed = self._evaluate("users", users, why)
            if self.asks_accounts:
                # Where nothing happened to people, accounts see only what they are worth now.
                seen = changed if why.sweep else users.keys()
                sets.update(chain.from_iterable(users[key].sets for key in seen))
        swept = frozenset(accounts) if why.sweep else frozenset[bytes]()
        linked = accounts_of_sets(self._tx, self._workspace, sets) - accounts.keys() if sets else set()
        accounts |= self._tx.profiles(self._workspace, linked)
        now = self._in_turn(accounts, swept, why.due)
        for start in range(0, len(now), ACCOUNTS_PER_SLICE):
            part = now[start : start + ACCOUNTS_PER_SLICE]
            self._evaluate("accounts", {key: accounts[key] for key in part}, why)

    def put_off(self, keys: Sequence[bytes], until: int) -> None:
        """Have profiles evaluated at a time, as if time brought it; what is due before stays so."""
        for start in range(0, len(keys), SLICE_PROFILES):
            part = keys[start : start + SLICE_PROFILES]
            held = self._tx.decoded(self._workspace, Db.COMPUTED, part, decode_computed)
            items: dict[bytes, ComputedRecord] = {}
            before: dict[bytes, int] = {}
            for key in part:
                record = held.get(key) or ComputedRecord(0, {})
                if not record.due or record.due > until:
                    before[key] = record.due
                    record.due = until
                    items[key] = record
            put_computed(self._tx, self._workspace, items, before)

    def finish(self) -> None:
        """Put what was announced into the transaction."""
        self._announcing.flush()
        changed: dict[str, DefinitionRecord] = {}
        for number, more in self._announcing.members.items():
            record = self._by_number.get(number)
            if record is not None and more:
                record = self._records[record.key]  # a sweep may have replaced it
                record.members += more
                changed[record.key] = record
        definitions_now.put_records(self._tx, self._workspace, changed)

    # ---- one slice -----------------------------------------------------------------------------

    def _in_turn(
        self, accounts: Mapping[bytes, ProfileRecord], swept: frozenset[bytes], due: Mapping[bytes, int]
    ) -> list[bytes]:
        """Return the accounts to evaluate now; large ones, and more than are some work, wait for their time.

        Those that are gone through have been chosen so already; then come those that wait longest.
        """
        if not self.asks_accounts:
            return sorted(accounts)
        now: list[bytes] = []
        next_: list[bytes] = []
        later: list[bytes] = []
        for key in sorted(accounts, key=lambda key: (key not in swept, due.get(key, NEVER), key)):
            users = self._users_seen(accounts[key])
            if users > ACCOUNT_USERS_MAX and key not in due and key not in swept:
                later.append(key)
            elif key in swept or self._users_left > 0:
                now.append(key)
                self._users_left -= users
            else:
                next_.append(key)
        self.put_off(next_, self._at)
        self.put_off(later, self._at + ACCOUNT_SECONDS * 1_000_000)
        return now

    def _users_seen(self, account: ProfileRecord) -> int:
        return users_seen(self._tx, self._workspace, account, ACCOUNT_USERS_MAX + 1)

    def _evaluate(
        self, collection: Collection, profiles: Mapping[bytes, ProfileRecord], why: Why
    ) -> set[bytes]:
        """Bring profiles up to date; return those of which something was announced."""
        if not profiles:
            return set()
        tx, workspace, plan = self._tx, self._workspace, self._plans[collection]
        keys = list(profiles)
        self.evaluated += len(keys)
        held = tx.decoded(workspace, Db.COMPUTED, keys, decode_computed)
        columns = [held.get(key) or ComputedRecord(0, {}) for key in keys]
        due_before = np.array([record.due for record in columns], dtype=np.int64)
        changes_at: _Times = np.full(len(keys), NEVER, dtype=np.int64)
        touched: set[int] = set()
        told_again = [
            record
            for record in self._records.values()
            if why.sweep.get(record.number, ("",))[0] == RESYNC and record.status in EVALUATED
        ]
        same = [set(record.values) for record in columns] if told_again else []
        if plan:
            whole, sets = subjects(tx, workspace, profiles, plan, collection, self._others, held)
            # No event is dated after its receipt, and the pipeline's time is at least that of what it received.
            partials = stored.read(tx, workspace, sets, self._at, self._steps[collection], newest=True)
            found = self._answered(plan, partials, whole)
            befores = self._befores(plan, columns)
            for planned in plan:
                answer = found[planned.held.definition.key]
                changes_at = np.minimum(changes_at, answer.changes_at)
                rows = _differing(befores.get(self._number(planned)), answer.values)
                texts = answer.values.take(pa.array(rows)).to_pylist()
                for row, text in zip(rows.tolist(), texts, strict=True):
                    touched.add(row)
                    self._announce(planned, profiles[keys[row]], keys[row], columns[row], text, why)
                    if told_again:
                        same[row].discard(self._number(planned))
        touched |= self._withdraw_values(collection, keys, profiles, columns, why)
        for record in told_again:
            for row, numbers in enumerate(same):
                if record.number in numbers and record.number in columns[row].values:
                    self._tell_again(record, collection, keys[row], columns[row], why)
        due = _due(due_before, changes_at, self._at)
        write = sorted(touched | set(np.flatnonzero(due != due_before).tolist()))
        for row in write:
            columns[row].due = int(due[row])
        put_computed(
            tx,
            workspace,
            {keys[row]: columns[row] for row in write},
            {keys[row]: int(due_before[row]) for row in write},
        )
        return {keys[row] for row in touched}

    def _answered(self, plan: Plan, partials: Partials, whole: Subjects) -> Mapping[str, Answers]:
        try:
            return answers(plan, self._numbers, partials, whole, self._at)
        except PASSED_ON:
            raise
        except Exception as error:
            alone = [partial(answers, (each,), self._numbers, partials, whole, self._at) for each in plan]
            keys = [
                each.held.definition.key
                for each, attempt in zip(plan, alone, strict=True)
                if not works(attempt)
            ]
            every = [planned.held.definition.key for planned in plan]
            raise Faulty(self._workspace, keys or every, error) from error

    def _number(self, planned: Planned) -> int:
        return self._records[planned.held.definition.key].number

    def _befores(self, plan: Plan, columns: Sequence[ComputedRecord]) -> dict[int, pa.Array]:
        """Return what was announced last, by number of the definition; only of those anybody has a value of."""
        mine = {self._number(planned) for planned in plan}
        values: dict[int, list[str | None]] = {}
        for row, record in enumerate(columns):
            for number, value in record.values.items():
                if number in mine:
                    texts = values.get(number)
                    if texts is None:
                        texts = values[number] = [None] * len(columns)
                    texts[row] = value.value
        return {number: pa.array(texts, pa.string()) for number, texts in values.items()}

    def _announce(
        self,
        planned: Planned,
        profile: ProfileRecord,
        key: bytes,
        record: ComputedRecord,
        value: str | None,
        why: Why,
    ) -> None:
        definition, number = planned.held.definition, self._number(planned)
        cause, position = why.of(key, profile.sets, number, self._at)
        self._announcing.change(
            record,
            number=number,
            definition=definition.key,
            kind=definition.kind,
            version=planned.held.version,
            collection=COLLECTIONS[profile.collection],
            profile=key,
            value=value,
            told="0" if value is None and counts(planned.root) else value,
            cause=cause,
            position=position,
        )

    def _tell_again(
        self, of: DefinitionRecord, collection: Collection, key: bytes, record: ComputedRecord, why: Why
    ) -> None:
        value = record.values[of.number].value
        cause, position = why.sweep[of.number]
        self._announcing.say(
            definition=of.key,
            kind=of.kind,
            version=of.version,
            collection=collection,
            profile=key,
            value=value,
            previous=value,
            cause=cause,
            position=position,
        )

    def _withdraw_values(
        self,
        collection: Collection,
        keys: Sequence[bytes],
        profiles: Mapping[bytes, ProfileRecord],
        columns: Sequence[ComputedRecord],
        why: Why,
    ) -> set[int]:
        """Take away what definitions are no longer worth: those that are gone, or are of others now."""
        over = {record.number for record in self._records.values() if record.status in WITHDRAWN}
        for other in COLLECTIONS:
            if other != collection:
                over.update(self._number(planned) for planned in self._plans[other])
        if not over:
            return set()
        rows = [row for row, record in enumerate(columns) if not over.isdisjoint(record.values)]
        for row in rows:
            key = keys[row]
            for number in sorted(over & columns[row].values.keys()):
                self._take_away(number, key, collection, profiles[key].sets, columns[row], why)
        return set(rows)

    def _withdraw(self, gone: Sequence[bytes], why: Why) -> None:
        """Take away all that profiles were worth that are no more."""
        tx, workspace = self._tx, self._workspace
        held = tx.decoded(workspace, Db.COMPUTED, gone, decode_computed)
        if not held:
            return
        heads = tx.decoded(workspace, Db.SET, held, decode_set_head)
        before = {key: record.due for key, record in held.items()}
        for key, record in held.items():
            collection = COLLECTIONS[heads[key].collection if key in heads else 0]
            for number in sorted(record.values):
                if number in self._by_number:
                    self._take_away(number, key, collection, (), record, why)
            record.values.clear()
            record.due = 0
        put_computed(tx, workspace, held, before)

    def _take_away(
        self,
        number: int,
        key: bytes,
        collection: Collection,
        sets: Sequence[bytes],
        record: ComputedRecord,
        why: Why,
    ) -> None:
        of = self._by_number[number]
        cause, position = why.of(key, sets, number, self._at)
        self._announcing.change(
            record,
            number=number,
            definition=of.key,
            kind=of.kind,
            version=of.version,
            collection=collection,
            profile=key,
            value=None,
            told=None,
            cause=cause,
            position=position,
        )


def _differing(before: pa.Array | None, now: pa.Array) -> npt.NDArray[np.int64]:
    """Return the rows whose value is another one now."""
    if isinstance(now, pa.ChunkedArray):
        now = now.combine_chunks()
    if before is None:
        if now.null_count == len(now):
            return np.zeros(0, dtype=np.int64)
        differs = now.is_valid()
    else:
        # No JSON text is empty.
        differs = pc.not_equal(pc.fill_null(before, ""), pc.fill_null(now, ""))
    return np.flatnonzero(differs.to_numpy(zero_copy_only=False)).astype(np.int64)


def _due(before: _Times, changes_at: _Times, at: int) -> _Times:
    """Return when profiles are to be looked at again, 0 for never.

    A timer that stands before the time of a change stays: it is cheaper to look once in vain than to move it
    with every event.
    """
    stays = (before > at) & (before <= changes_at)
    moved = np.where(changes_at == NEVER, 0, np.maximum(changes_at, at + 1))
    due: _Times = np.where(stays, before, moved)
    return due
