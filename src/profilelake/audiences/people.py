"""Profiles of the published tables, people and accounts, as the columns that answers are worked out from."""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.audiences.queried import Given
from profilelake.kernels import siphash
from profilelake.semantics.conditions.tree import Path
from profilelake.semantics.rules import Collection
from profilelake.traits.columns import Bools, Int64s, Subjects
from profilelake.traits.found import Column, Texts
from profilelake.traits.steps import Plan

NOTHING_GIVEN: Final = Given()


def traits_read(plan: Plan, of: Collection = "users") -> list[str]:
    """Return the traits that definitions read of people, or of accounts, and that none about them gives."""
    given = {planned.held.definition.key for planned in plan if planned.held.definition.target == of}
    return sorted({key for planned in plan for key in planned.reads} - given)


def types_asked(plan: Plan) -> list[str]:
    """Return the identifier types of which members must have one."""
    return sorted({type for planned in plan for type in planned.held.definition.external_ids})


def subjects(profiles: pa.Table, sets: pa.Table, plan: Plan, given: Given = NOTHING_GIVEN) -> Subjects:
    """Return profiles (`profile_id`, `identifiers`, `traits`), numbered as their rows are.

    `sets` are the sets of these profiles (`set_id`, `profile_id`); those of others are passed over. What is
    `given` of them by queries hides what was written under the same key.
    """
    keys, owners = set_owners(sets, profiles.column("profile_id"))
    return Subjects(
        count=profiles.num_rows,
        set_keys=keys,
        set_owner=owners,
        traits={**members(profiles.column("traits"), traits_read(plan)), **given.traits},
        identifier_types=has(profiles.column("identifiers"), types_asked(plan)),
        entities=given.entities,
    )


def accounts_of(
    accounts: pa.Table,
    people: Subjects,
    user_ids: pa.ChunkedArray,
    linked: pa.Table,
    plan: Plan,
    given: Given = NOTHING_GIVEN,
) -> Subjects:
    """Return accounts (`profile_id`, `traits`), numbered as their rows are, with the people who belong to them.

    `people` are these as `subjects` gives them, with their ids; `linked` has each person (`profile_id`) and
    account (`account_id`) that belong together once; other people and other accounts are passed over.
    """
    ids = accounts.column("profile_id").combine_chunks()
    account = pc.fill_null(pc.index_in(linked.column("account_id"), value_set=ids), -1).to_numpy()
    user = pc.fill_null(
        pc.index_in(linked.column("profile_id"), value_set=user_ids.combine_chunks()), -1
    ).to_numpy()
    pairs = np.column_stack([account, user]).astype(np.int64)
    return Subjects(
        count=accounts.num_rows,
        # What happened hangs on sets of people.
        set_keys=np.zeros((0, 2), dtype=np.uint64),
        set_owner=np.zeros(0, dtype=np.int64),
        traits={**members(accounts.column("traits"), traits_read(plan, "accounts")), **given.traits},
        users=people,
        user_accounts=pairs[(pairs >= 0).all(axis=1)],
        entities=given.entities,
    )


def set_owners(sets: pa.Table, profile_ids: pa.ChunkedArray) -> tuple[siphash.Words, Int64s]:
    """Return the sets of some profiles, sorted as bytes, and the row of the profile of each."""
    ids = profile_ids.combine_chunks()
    owners = pc.fill_null(pc.index_in(sets.column("profile_id"), value_set=ids), -1).to_numpy()
    words = siphash.from_arrow(sets.column("set_id").cast(pa.binary(siphash.HASH_BYTES)))
    known = np.flatnonzero(owners >= 0)
    words, owners = words[known], owners[known].astype(np.int64)
    order = np.lexsort((words[:, 1].byteswap(), words[:, 0].byteswap()))
    return words[order], owners[order]


def members(objects: pa.ChunkedArray, keys: Sequence[str]) -> dict[str, pa.Array]:
    """Return the JSON text of some members of JSON objects; null is missing."""
    columns = _columns(objects, keys)
    found = {}
    for key in keys:
        coded = columns[(key,)].all
        texts = pa.array(coded.texts, pa.string())
        found[key] = texts.take(pa.array(coded.codes, mask=coded.codes < 0))
    return found


def has(objects: pa.ChunkedArray, keys: Sequence[str]) -> dict[str, Bools]:
    """Return which JSON objects have some members."""
    columns = _columns(objects, keys)
    return {key: columns[(key,)].present for key in keys}


def _columns(objects: pa.ChunkedArray, keys: Iterable[str]) -> dict[Path, Column]:
    # A row without an object is one without members.
    texts = Texts(pc.fill_null(objects, "{}").cast(pa.string()).combine_chunks())
    return texts.columns(np.arange(len(objects), dtype=np.int64), [(key,) for key in keys])
