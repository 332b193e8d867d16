"""What decisions would do to who is who, before they are made: `plan` changes nothing.

The whole history is resolved twice, under the decisions in force and under those with the new ones,
and the two answers are compared column by column. Where the decisions can touch only one component of
the graph, and it is small, only that is taken from the online state and resolved: the answer is the same.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import duckdb
import numpy as np
import pyarrow as pa

from profilelake.identity.decide import Asked, Deciding
from profilelake.identity.facts import Fact, Leave, Quarantine, Standing, Unlink
from profilelake.identity.poison import split
from profilelake.identity.problem import SetColumns, problem_of
from profilelake.kernels.siphash import Words
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import attach, damage_told
from profilelake.pipeline._changes import Bools, Change, of_fold, of_sets
from profilelake.pipeline.events_by_id import find_event
from profilelake.pipeline.fold_facts import read
from profilelake.pipeline.progress import load_applied
from profilelake.pipeline.rebuild import fold_facts
from profilelake.pipeline.told_effects import EXAMPLES, Effects
from profilelake.semantics.identity import common_window
from profilelake.semantics.positions import POSITION_BYTES
from profilelake.semantics.rules import Collection
from profilelake.state.records import IdentRecord, SetRecord, decode_quarantine, received_at
from profilelake.state.store import Db, State, Tx

COMPONENT_SETS_MAX: Final = 20_000
"""Sets of a component that are taken from the state one by one; larger ones are read from the lake."""
COMPONENT_LINKS_PER_SET: Final = 8
"""Links that may be followed for each of those sets."""

EFFECTS__AS_OF: Final = "SELECT max(position) FROM events"
"""The position up to which the tables hold everything."""


def plan(
    state: State,
    workspace: str,
    held: Callable[[Tx], Standing],
    facts: Sequence[Fact],
    lake: Lake,
    *,
    untrusted: frozenset[str] = frozenset(),
    examples: int = EXAMPLES,
    component_sets_max: int = COMPONENT_SETS_MAX,
) -> Effects:
    """Return what `facts` would change. `held` reads the decisions in force; `untrusted` as `fold` takes it.

    What is accepted but neither applied nor published yet is not taken into account; have it
    committed first.
    """
    with state.read(workspace) as tx:
        as_of = load_applied(tx, workspace, "").position
        whole = tx.count(workspace, Db.PROFILE)
        if all(isinstance(fact, Leave) for fact in facts):  # who is who stays as it is
            return _effects([], "component", as_of, examples, whole, whole)
        before = held(tx)
        after = with_facts(before, facts)
        change = _from_state(tx, workspace, before, after, facts, component_sets_max)
        if change is not None:
            more = change.profiles(1) - change.profiles(0)
            return _effects([change], "component", as_of, examples, whole, whole + more)
    with duckdb.connect() as connection, damage_told():
        attach(connection, lake, workspace)
        as_of = connection.sql(EFFECTS__AS_OF).fetchall()[0][0] or b""
        facts_before = facts_after = read(connection, before)
        if before.retracted != after.retracted:
            facts_after = read(connection, after)
    changes = [
        Change(
            old.collection,
            of_fold(fold_facts(old, before, untrusted)),
            of_fold(fold_facts(new, after, untrusted)),
        )
        for old, new in zip(facts_before, facts_after, strict=True)
    ]
    profiles = [sum(change.profiles(side) for change in changes) for side in (0, 1)]
    return _effects(changes, "history", as_of, examples, *profiles)


def with_facts(held: Standing, facts: Iterable[Fact]) -> Standing:
    """Return what holds once `facts` are the latest decisions; `held` stays as it is."""
    after = copy.deepcopy(held)
    for fact in facts:
        after.take(b"\xff" * POSITION_BYTES, fact)
    return after


def plan_document(
    deciding: Deciding,
    lake: Lake,
    asked: Asked,
    by: str,
    *,
    examples: int = 0,
    untrusted: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Return what a request of `by` would record and change, as it is shown. Raises as `decide` does."""
    decided = deciding.decide(asked, by, partial(find_event, lake, deciding.workspace))
    facts = decided.facts if decided.changed else ()
    found = plan(
        deciding.state(),
        deciding.workspace,
        deciding.held,
        facts,
        lake,
        untrusted=untrusted,
        examples=examples or EXAMPLES,
    )
    return {"unchanged": not decided.changed, "facts": facts, "effects": found}


def _effects(
    changes: Sequence[Change],
    method: Literal["component", "history"],
    as_of: bytes,
    examples: int,
    profiles_before: int,
    profiles_after: int,
) -> Effects:
    shown = [example for change in changes for example in change.examples(examples)]
    shown.sort(key=lambda example: (-example.identifiers_moved, -example.sets_moved))
    largest = [
        max(
            (change.largest(side) for change in changes),
            key=lambda one: 0 if one is None else one.identifier_count,
            default=None,
        )
        for side in (0, 1)
    ]
    counts = {
        name: sum(getattr(change, name) for change in changes)
        for name in (
            "profiles_merging",
            "profiles_splitting",
            "identifiers_moved",
            "sets_moved",
            "refusals_appearing",
            "refusals_vanishing",
        )
    }
    return Effects(
        changed=any(counts.values()),
        method=method,
        as_of=as_of.hex() or None,
        as_of_at=received_at(as_of),
        profiles_before=profiles_before,
        profiles_after=profiles_after,
        largest_before=largest[0],
        largest_after=largest[1],
        examples=shown[:examples],
        **counts,
    )


# ---- the component, from the state -----------------------------------------------------------


def _from_state(
    tx: Tx, workspace: str, before: Standing, after: Standing, facts: Sequence[Fact], sets_max: int
) -> Change | None:
    """Compare what the component that `facts` touch is before and after; None where all must be read.

    New rules touch everything. A set that is evidence once in each window, or that is to lose one of
    several sightings, has more of a history than the state knows.
    """
    touched: set[bytes] = set()
    collections: set[Collection] = set()
    for fact in facts:
        match fact:
            case Unlink():
                touched |= {bytes.fromhex(fact.one), bytes.fromhex(fact.other)}
            case Quarantine():
                touched.add(bytes.fromhex(fact.ident))
            case _:
                return None
        collections.add(fact.collection)
    if len(collections) != 1:
        return None
    (collection,) = collections
    if common_window(before.rules, collection) is not None:
        return None
    by_degree = {
        ident for ident, value in tx.items(workspace, Db.QUARANTINE) if decode_quarantine(value).active
    }
    quarantined = [(side.quarantined | by_degree) - side.released for side in (before, after)]
    found = _component(tx, workspace, collection, before, touched, quarantined[0] & quarantined[1], sets_max)
    if found is None:
        return None
    columns = found.columns()
    sides = []
    for side, apart in zip((before, after), quarantined, strict=True):
        translated = problem_of(
            columns.members,
            side.rules,
            collection,
            unlinks=_words(
                pair
                for one, others in side.unlinks.items()
                if one in found.idents
                for other in others
                for pair in (one, other)
            ),
            quarantined=_words(apart & found.idents.keys()),
        )
        sides.append(of_sets(columns.sets, columns.members, translated, columns.counts))
    return Change(collection, *sides)


@dataclass(frozen=True, slots=True)
class _Columns:
    sets: Words
    members: SetColumns
    counts: Bools


@dataclass(frozen=True, slots=True)
class _Component:
    """Sets that hang together through identifiers that may link; those `retracted` are no evidence."""

    sets: dict[bytes, SetRecord]
    retracted: set[bytes]
    idents: dict[bytes, IdentRecord]

    def columns(self) -> _Columns:
        """Return the sets in position order, with all their identifiers."""
        ordered = sorted(self.sets.items(), key=lambda item: item[1].position)
        members = [split(record.idents) for _, record in ordered]
        flat = [self.idents[ident] for ids in members for ident in ids]
        return _Columns(
            sets=_words(key for key, _ in ordered),
            members=SetColumns(
                offsets=np.cumsum([0, *map(len, members)], dtype=np.int64),
                types=pa.array([ident.type for ident in flat], pa.string()),
                values=pa.array([ident.value for ident in flat], pa.string()),
                ident_ids=_words(ident for ids in members for ident in ids),
                received_at=np.array([received_at(record.position) for _, record in ordered], dtype=np.int64),
            ),
            counts=np.array([key not in self.retracted for key, _ in ordered], dtype=np.bool_),
        )


def _component(
    tx: Tx,
    workspace: str,
    collection: Collection,
    held: Standing,
    touched: set[bytes],
    quarantined: AbstractSet[bytes],
    sets_max: int,
) -> _Component | None:
    """Return every set connected with `touched` identifiers, None where there are more than `sets_max`."""
    found = _Component({}, set(), {})
    followed: set[bytes] = set()
    frontier = set(touched)
    while frontier:
        if len(found.sets) + sum(tx.link_counts(workspace, frontier)) > COMPONENT_LINKS_PER_SET * sets_max:
            return None
        followed |= frontier
        reached = {key for ident in frontier for key in tx.linked_sets(workspace, ident)} - found.sets.keys()
        for key, record in tx.sets(workspace, reached).items():
            found.sets[key] = record
            if record.position in held.retracted.get(key, ()):
                found.retracted.add(key)
        if len(found.sets) > sets_max:
            return None
        members = {ident for key in reached for ident in split(found.sets[key].idents)}
        found.idents.update(tx.idents(workspace, members - found.idents.keys()))
        frontier = {
            ident
            for ident in members - followed
            if ident not in quarantined and _may_link(held, collection, found.idents[ident])
        }
    return found


def _may_link(held: Standing, collection: Collection, ident: IdentRecord) -> bool:
    rule = held.rules.rule(collection, ident.type)
    return rule is not None and bool(ident.value) and not rule.blocks(ident.value)


def _words(ids: Iterable[bytes]) -> Words:
    return np.frombuffer(b"".join(ids), dtype=np.uint64).reshape(-1, 2)
