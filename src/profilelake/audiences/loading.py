"""Profiles as columns, from the online state: their sets, and what definitions ask of their traits."""

from collections.abc import Collection as Many
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, takewhile
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profilelake.audiences.definitions_now import Known
from profilelake.kernels.siphash import HASH_BYTES, Words
from profilelake.profiles.memberships import belongs
from profilelake.semantics.conditions.tree import Reduce, Root
from profilelake.semantics.rules import Collection
from profilelake.state.computed import (
    ComputedRecord,
    DefinitionRecord,
    decode_computed,
    entity_rows_key,
)
from profilelake.state.heads import decode_set_head
from profilelake.state.records import ProfileRecord, TraitRecord, decode_traits, joined_traits
from profilelake.state.store import Db, Tx
from profilelake.traits.columns import Subjects
from profilelake.traits.steps import Plan

AUDIENCES: Final = frozenset({"audience", "sql_audience"})


class Elsewhere(NamedTuple):
    """A value that is not computed here and now, but was: of SQL, of the version before, of linked people.

    Where a profile has none it is worth `missing`: an audience is true or false, a count at least 0. A disabled
    definition has no `number`: it owns its key, and nobody has a value.
    """

    number: int | None
    target: str
    missing: str | None


def elsewhere(known: Known, records: Mapping[str, DefinitionRecord]) -> dict[str, Elsewhere]:
    """Return the values of all definitions that are asked for, by key."""
    roots = {planned.held.definition.key: planned.root for planned in known.plan}
    found = {}
    for key, held in known.held.items():
        if key in records:
            enabled, audience = held.definition.enabled, held.definition.kind in AUDIENCES
            missing = "false" if audience else "0" if enabled and counts(roots.get(key)) else None
            number = records[key].number if enabled else None
            found[key] = Elsewhere(number, held.definition.target, missing)
    return found


def counts(root: Root | None) -> bool:
    """Tell whether a definition counts something: then nothing is 0."""
    return isinstance(root, Reduce) and (root.how == "count" or root.counted)


def subjects(
    tx: Tx,
    workspace: str,
    profiles: Mapping[bytes, ProfileRecord],
    plan: Plan,
    collection: Collection,
    others: Mapping[str, Elsewhere],
    computed: Mapping[bytes, ComputedRecord],
) -> tuple[Subjects, list[bytes]]:
    """Return profiles of one collection in their order, and all sets whose partials they need, sorted.

    `others` are values that definitions may ask for and `plan` does not give, `computed` is what is known of their values. Of accounts the linked users come along.
    """
    reads = frozenset[str]().union(*(planned.reads for planned in plan))
    types = frozenset[str]().union(*(planned.held.definition.external_ids for planned in plan))
    slugs = frozenset[str]().union(*(planned.entities for planned in plan))
    mine = _alone(tx, workspace, profiles, reads, types, slugs, collection, others, computed, plan)
    if collection == "users":
        return mine, sorted(_split(mine.set_keys))
    linked = linked_users(tx, workspace, profiles)
    people = sorted({user for users in linked.values() for user in users})
    records = tx.profiles(workspace, people)
    known = tx.decoded(workspace, Db.COMPUTED, people, decode_computed)
    users = _alone(tx, workspace, records, reads, frozenset(), slugs, "users", others, known, ())
    row_of = {key: row for row, key in enumerate(records)}
    pairs = [
        (row, row_of[user])
        for row, account in enumerate(profiles)
        for user in linked[account]
        if user in row_of
    ]
    user_accounts = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    whole = replace(mine, users=users, user_accounts=user_accounts)
    return whole, sorted({*_split(mine.set_keys), *_split(users.set_keys)})


def linked_users(tx: Tx, workspace: str, accounts: Mapping[bytes, ProfileRecord]) -> dict[bytes, list[bytes]]:
    """Return the people who belong to accounts today, by their founding sets."""
    sets: dict[bytes, set[bytes]] = {
        key: {other for mine in account.sets for other in _paired(tx, workspace, Db.MEMBERS, mine)}
        for key, account in accounts.items()
    }
    heads = tx.decoded(workspace, Db.SET, {key for keys in sets.values() for key in keys}, decode_set_head)
    found = {
        key: sorted({heads[other].profile for other in others if other in heads and heads[other].profile})
        for key, others in sets.items()
    }
    if not tx.count(workspace, Db.LEFT):
        return found
    return {
        key: [user for user in users if belongs(tx, workspace, user, key)] for key, users in found.items()
    }


def accounts_of_sets(tx: Tx, workspace: str, sets: Iterable[bytes]) -> set[bytes]:
    """Return the accounts with which sets of people ever were seen, as they are today."""
    if not tx.count(workspace, Db.ACCOUNTS_OF):
        return set()
    others = {other for key in sets for other in _paired(tx, workspace, Db.ACCOUNTS_OF, key)}
    heads = tx.decoded(workspace, Db.SET, others, decode_set_head)
    return {head.profile for head in heads.values() if head.profile}


def users_seen(tx: Tx, workspace: str, account: ProfileRecord, most: int) -> int:
    """Return with how many sets of people an account was seen, counted up to `most`."""
    pairs = (pair for mine in account.sets for pair in _paired(tx, workspace, Db.MEMBERS, mine))
    return sum(1 for _ in islice(pairs, most))


def _paired(tx: Tx, workspace: str, db: Db, key: bytes) -> Iterator[bytes]:
    pairs = takewhile(lambda pair: pair.startswith(key), tx.keys(workspace, db, key))
    return (pair[HASH_BYTES:] for pair in pairs)


def _alone(
    tx: Tx,
    workspace: str,
    profiles: Mapping[bytes, ProfileRecord],
    reads: frozenset[str],
    types: frozenset[str],
    slugs: frozenset[str],
    collection: Collection,
    others: Mapping[str, Elsewhere],
    computed: Mapping[bytes, ComputedRecord],
    plan: Plan,
) -> Subjects:
    """Return profiles without those they are linked with."""
    keys, owners = _sets(list(profiles.values()))
    given = {planned.held.definition.key for planned in plan}
    stated = {
        key: others[key]
        for key in sorted(reads - given)
        if key in others and others[key].target == collection
    }
    written = _written(tx, workspace, profiles, sorted(reads - given - stated.keys()))
    counted = {
        key: _kept([computed.get(profile) for profile in profiles], other) for key, other in stated.items()
    }
    has = [{type for _, type in profile.idents} for profile in profiles.values()]
    return Subjects(
        count=len(profiles),
        set_keys=keys,
        set_owner=owners,
        traits={**written, **counted},
        identifier_types={
            type: np.fromiter((type in mine for mine in has), dtype=np.bool_, count=len(has))
            for type in sorted(types)
        },
        entities={
            slug: linked_rows(tx, workspace, profiles.values(), others.get(slug)) for slug in sorted(slugs)
        },
    )


def linked_rows(tx: Tx, workspace: str, profiles: Many[ProfileRecord], entity: Elsewhere | None) -> pa.Array:
    """Return the rows of an entity that profiles are linked with, JSON text of an array each; null for none.

    They are kept with the profile they were found for. Of one that was merged with it since, they come along.
    """
    if entity is None or entity.number is None:
        return pa.nulls(len(profiles), pa.string())
    number = entity.number
    keys = sorted(entity_rows_key(number, key) for profile in profiles for key in profile.sets)
    kept = tx.get_many(workspace, Db.ENTITY, keys)
    if not kept:
        return pa.nulls(len(profiles), pa.string())
    return pa.array(
        [
            _together([kept[key] for mine in profile.sets if (key := entity_rows_key(number, mine)) in kept])
            for profile in profiles
        ],
        pa.string(),
    )


def _together(arrays: Sequence[bytes]) -> str | None:
    """Return JSON arrays, none of them empty, as one."""
    return b"".join((b"[", b",".join(array[1:-1] for array in arrays), b"]")).decode() if arrays else None


def _sets(profiles: Sequence[ProfileRecord]) -> tuple[Words, npt.NDArray[np.int64]]:
    """Return the sets of profiles, sorted as bytes, and the row of the profile of each."""
    joined = b"".join([key for profile in profiles for key in profile.sets])
    owners = np.repeat(np.arange(len(profiles)), [len(profile.sets) for profile in profiles])
    words = np.frombuffer(joined, dtype=np.uint64).reshape(-1, 2)
    ordered = words.byteswap()
    order = np.lexsort((ordered[:, 1], ordered[:, 0]))
    return words[order], owners[order].astype(np.int64)


def _split(keys: Words) -> list[bytes]:
    joined = keys.tobytes()
    return [joined[start : start + HASH_BYTES] for start in range(0, len(joined), HASH_BYTES)]


def _written(
    tx: Tx, workspace: str, profiles: Mapping[bytes, ProfileRecord], names: Sequence[str]
) -> dict[str, pa.Array]:
    """Return traits that events wrote: JSON text per profile, null where there is none."""
    if not names:
        return {}
    sets = sorted({key for profile in profiles.values() for key in profile.sets})
    writes = tx.decoded(workspace, Db.TRAITS, sets, decode_traits)
    nothing: dict[str, TraitRecord] = {}
    joined = [joined_traits(profile, writes) if writes else nothing for profile in profiles.values()]
    return {
        name: pa.array(
            [None if (write := of.get(name)) is None else write.value for of in joined], pa.string()
        )
        for name in names
    }


def _kept(records: Sequence[ComputedRecord | None], other: Elsewhere) -> pa.Array:
    """Return what was computed before."""
    if other.number is None:
        return pa.repeat(pa.scalar(other.missing, pa.string()), len(records))
    found = [None if record is None else record.values.get(other.number) for record in records]
    return pa.array([other.missing if value is None else value.value for value in found], pa.string())
