"""What queries say of profiles, as columns beside their traits: rows of entities, values of SQL definitions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.semantics.definitions import Definition, Target, is_audience
from profilelake.traits.columns import Bools
from profilelake.traits.steps import Plan

GIVEN: Final = pa.schema(
    [("profile_id", pa.string()), ("number", pa.int32()), ("id", pa.string()), ("text", pa.string())]
)
"""What a query gave for one id of a profile: the place of its definition, the id, and JSON.

Of an entity that is all of its rows, joined by commas: an array without its brackets.
"""
_NO: Final = "false"


@dataclass(frozen=True, slots=True)
class Given:
    """JSON text per profile: rows of entities by slug, and values by key; null where there are none."""

    entities: Mapping[str, pa.Array] = field(default_factory=dict)
    traits: Mapping[str, pa.Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queried:
    """The definitions in SQL, each in its place: those of one that is disabled have no rows."""

    definitions: tuple[Definition, ...] = ()

    def given(self, ids: pa.ChunkedArray, rows: pa.Table, of: Target, plan: Plan) -> Given:
        """Return what is said of profiles, in their order; `rows` (`GIVEN`) of others are passed over.

        An entity that a plan asks for and that is not among the definitions has no rows for anybody.
        """
        entities = {slug: pa.nulls(len(ids), pa.string()) for planned in plan for slug in planned.entities}
        traits: dict[str, pa.Array] = {}
        # Where several ids are one profile the rows of all count, and the value of the greatest.
        order = pc.sort_indices(rows, [("number", "ascending"), ("id", "ascending")])
        rows = rows.take(order)
        numbers = rows.column("number").to_numpy()
        for number, definition in enumerate(self.definitions):
            if definition.target != of:
                continue
            begin, end = np.searchsorted(numbers, [number, number + 1])
            said = rows.slice(begin, end - begin)
            if definition.kind == "entity":
                entities[definition.key] = _arrays(said, ids)
            else:
                told = _last(said, ids)
                traits[definition.key] = pc.fill_null(told, _NO) if is_audience(definition.kind) else told
        return Given(entities, traits)


NOTHING: Final = Queried()


def _arrays(said: pa.Table, ids: pa.ChunkedArray) -> pa.Array:
    """Return the rows of all ids of each profile as one JSON array."""
    grouped = said.group_by("profile_id", use_threads=False).aggregate([("text", "list")])
    joined = pc.binary_join(grouped.column("text_list"), ",")
    return _placed(pc.binary_join_element_wise("[", joined, "]", ""), grouped.column("profile_id"), ids)


def _last(said: pa.Table, ids: pa.ChunkedArray) -> pa.Array:
    grouped = said.group_by("profile_id", use_threads=False).aggregate([("text", "last")])
    return _placed(grouped.column("text_last"), grouped.column("profile_id"), ids)


def _placed(texts: pa.ChunkedArray, of: pa.ChunkedArray, ids: pa.ChunkedArray) -> pa.Array:
    place = pc.index_in(ids, value_set=of.combine_chunks())
    found = texts.combine_chunks().take(place)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def members(column: pa.Array) -> pa.Array:
    """Return who is in an audience in SQL, as values are kept: `true`, and null for everybody else."""
    inside: Bools = pc.equal(column, "true").to_numpy(zero_copy_only=False)
    return pc.if_else(pa.array(inside), "true", pa.scalar(None, pa.string()))
