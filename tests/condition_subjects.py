"""Worlds of random histories as columns: what the columnar engine is asked about, next to the reference."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from condition_worlds import ENTITY, TYPES, Defined, World, events_table, set_id
from profilelake.kernels.siphash import Words
from profilelake.semantics.conditions.tree import Reduce, Root
from profilelake.semantics.conditions.values import canonical
from profilelake.semantics.definitions import Json
from profilelake.state.store import Tx
from profilelake.traits import stored
from profilelake.traits.answers import Answers, answers
from profilelake.traits.columns import Subjects
from profilelake.traits.fold import fold
from profilelake.traits.partials import Numbered, Partials
from profilelake.traits.steps import Plan, Step, planned

WORKSPACE: Final = "default"


def words(sets: Sequence[bytes]) -> Words:
    """Return set ids as the engine takes them."""
    return np.frombuffer(b"".join(sets), dtype=np.uint64).reshape(-1, 2)


def people(world: World) -> Subjects:
    """Return the people of a world."""
    owned = sorted((set_id(place), who) for who, person in enumerate(world.people) for place in person.sets)
    return Subjects(
        count=len(world.people),
        set_keys=words([key for key, _ in owned]),
        set_owner=np.array([who for _, who in owned], dtype=np.int64),
        traits=_traits([person.traits for person in world.people]),
        identifier_types={
            kind: np.array([kind in person.identifier_types for person in world.people], dtype=np.bool_)
            for kind in TYPES
        },
        entities=_rows([person.rows for person in world.people]),
    )


def accounts(world: World) -> Subjects:
    """Return the accounts of a world with their people."""
    pairs = [(place, user) for place, account in enumerate(world.accounts) for user in account.users]
    return Subjects(
        count=len(world.accounts),
        set_keys=words([]),
        set_owner=np.zeros(0, dtype=np.int64),
        traits=_traits([account.traits for account in world.accounts]),
        users=people(world),
        user_accounts=np.array(pairs, dtype=np.int64).reshape(-1, 2),
        entities=_rows([account.rows for account in world.accounts]),
    )


def plan_of(made: Sequence[Defined]) -> tuple[Plan, list[Numbered]]:
    """Return how definitions are computed, and their steps with numbers."""
    plan = planned({one.definition.key: one.held() for one in made})
    steps: dict[bytes, Step] = {step.digest: step for one in plan for step in one.steps.values()}
    return plan, [Numbered(number, step) for number, step in enumerate(steps.values(), start=3)]


def columnar(
    made: Sequence[Defined], world: World, at: int, *, exact: bool = False
) -> dict[str, tuple[list[Json], list[int]]]:
    """Return the answers of the engine: by key, those of all people or accounts, and until when they stand."""
    _, steps = plan_of(made)
    return answered(made, world, at, fold(events_table(world.calls), steps, at=at if exact else None))


def remembered(
    tx: Tx, made: Sequence[Defined], world: World, at: int
) -> dict[str, tuple[list[Json], list[int]]]:
    """Return the answers from partials that were kept in a state, event by event, and read for this time."""
    _, steps = plan_of(made)
    for call in world.calls:
        stored.add(tx, WORKSPACE, fold(events_table([call]), steps), steps)
    sets = [set_id(place) for person in world.people for place in person.sets]
    newest = all(call.timestamp <= at for call in world.calls)
    return answered(made, world, at, stored.read(tx, WORKSPACE, sets, at, steps, newest=newest))


def answered(
    made: Sequence[Defined], world: World, at: int, partials: Partials
) -> dict[str, tuple[list[Json], list[int]]]:
    """Return the answers of the engine from partials."""
    plan, steps = plan_of(made)
    numbers = {step.digest: number for number, step in steps}
    found: dict[str, Answers] = {}
    for subjects in (people(world), accounts(world)):
        found |= answers(plan, numbers, partials, subjects, at)
    return {
        key: ([_value(text) for text in one.values.to_pylist()], one.changes_at.tolist())
        for key, one in found.items()
    }


def kept(made: Sequence[Defined], found: Mapping[str, Sequence[Json]]) -> dict[str, list[Json]]:
    """Return answers of the reference as they are kept: no row for false, nor for a count of 0."""
    return {
        one.definition.key: [_kept(one.root, value) for value in found[one.definition.key]] for one in made
    }


def _kept(root: Root, value: Json) -> Json:
    counts = isinstance(root, Reduce) and (root.how == "count" or root.counted)
    if value is None or (value is False and not isinstance(root, Reduce)) or (counts and value == 0):
        return None
    return _value(canonical(value))


def _value(text: str | None) -> Json:
    return None if text is None else json.loads(text)


def _rows(of_all: Sequence[Sequence[Mapping[str, Json]]]) -> dict[str, Any]:
    return {ENTITY: pa.array([canonical([dict(row) for row in rows]) for rows in of_all], pa.string())}


def _traits(of_all: Sequence[Mapping[str, Json]]) -> dict[str, Any]:
    keys = sorted({key for traits in of_all for key in traits})
    return {
        key: pa.array(
            [None if traits.get(key) is None else canonical(traits[key]) for traits in of_all], pa.string()
        )
        for key in keys
    }
