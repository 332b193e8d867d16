"""Laws of identity in bulk: cut anywhere, it gives the answer of the reference."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from identity_histories import World, worlds
from profilelake.identity.bulk import BulkMapping, BulkResolver, resolve_by_component, resolve_files
from profilelake.identity.problem import SetColumns
from profilelake.kernels import siphash
from profilelake.semantics import identity
from profilelake.semantics.identifiers import KEY_BYTES, Identifier, ident_id, ident_prefix
from profilelake.semantics.identity import Sighting

KEY = bytes(range(KEY_BYTES))


def ids_of(identifiers: Sequence[Identifier]) -> siphash.Words:
    """Return the ids of identifiers as the kernels take them."""
    types = sorted({identifier.type for identifier in identifiers})
    return siphash.hash_typed(
        KEY,
        [ident_prefix("users", type) for type in types],
        np.array([types.index(identifier.type) for identifier in identifiers], dtype=np.int32),
        pa.array([identifier.value for identifier in identifiers], pa.string()),
    )


def columns_of(sightings: Sequence[Sighting]) -> SetColumns:
    """Return sightings as columns, members weakest first where it happens so."""
    rows = [one for sighting in sightings for one in sorted(sighting.identifiers, reverse=True)]
    return SetColumns(
        offsets=np.cumsum([0, *(len(sighting.identifiers) for sighting in sightings)], dtype=np.int64),
        types=pa.array([row.type for row in rows], pa.string()),
        values=pa.array([row.value for row in rows], pa.string()),
        ident_ids=ids_of(rows),
        received_at=np.array([sighting.received_at for sighting in sightings], dtype=np.int64),
    )


def file_of(sightings: Sequence[Sighting], path: Path) -> None:
    """Write sightings as a file of sets."""
    rows = [
        {
            "identifiers": [{"type": one.type, "value": one.value} for one in sighting.identifiers],
            "position": sighting.position,
            "received_at": sighting.received_at,
        }
        for sighting in sightings
    ]
    sets = pa.list_(pa.struct([("type", pa.string()), ("value", pa.string())]))
    schema = pa.schema(
        [("identifiers", sets), ("position", pa.binary()), ("received_at", pa.timestamp("us", tz="UTC"))]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=3)


def mapping(found: BulkMapping, rows_max: int) -> dict[bytes, str]:
    """Return the rows of all parts; they must be in the order of the ids."""
    rows = [row for part in found.parts(rows_max) for row in part.to_pylist()]
    assert [row["ident_id"] for row in rows] == sorted({row["ident_id"] for row in rows})
    assert all(row["slot"] == int.from_bytes(row["ident_id"][:2], "big") for row in rows)
    return {row["ident_id"]: row["profile_id"] for row in rows}


def counted(world: World) -> list[Sighting]:
    """Return the sightings that are evidence."""
    retracted = world.standing().retracted
    return [sighting for sighting in world.sightings if sighting.position not in retracted]


def expected(world: World) -> tuple[dict[bytes, str], int, int]:
    """Return the mapping of the reference, and how many profiles and merges it has."""
    held = world.standing()
    graph = identity.resolve(
        counted(world),
        held.rules,
        key=KEY,
        unlinks=[(one, other) for one, other in map(sorted, held.unlinks)],
        quarantined=world.poison(),
    )
    owned = {ident_id(KEY, "users", one): owner for one, owner in graph.owners.items() if owner is not None}
    return owned, len(graph.profiles), len(graph.merges)


@given(worlds(), st.integers(1, 6), st.integers(1, 4))
@settings(max_examples=150)
def test_sets_that_stream_through_in_pieces_give_the_answer_of_the_reference(
    world: World, step: int, rows_max: int
) -> None:
    held, sightings = world.standing(), counted(world)
    resolver = BulkResolver(
        held.rules,
        KEY,
        unlinks=ids_of([one for pair in held.unlinks for one in sorted(pair)]),
        quarantined=ids_of(sorted(world.poison())),
    )
    for start in range(0, len(sightings), step):
        resolver.add(columns_of(sightings[start : start + step]))
    found = resolver.finish()
    totals = found.totals
    assert (mapping(found, rows_max), totals.profiles, totals.merges) == expected(world)
    assert totals.sets == len(sightings)
    assert totals.owned <= totals.identifiers


@given(world=worlds())
@settings(max_examples=25)
def test_files_give_the_answer_of_the_reference(tmp_path: Path, world: World) -> None:
    held, sightings = world.standing(), counted(world)
    cut = len(sightings) // 2
    paths = [tmp_path / "first.parquet", tmp_path / "second.parquet"]
    for path, part in zip(paths, (sightings[:cut], sightings[cut:]), strict=True):
        file_of(part, path)
    found = resolve_files(
        paths,
        held.rules,
        KEY,
        unlinks=ids_of([one for pair in held.unlinks for one in sorted(pair)]),
        quarantined=ids_of(sorted(world.poison())),
    )
    assert mapping(found, 1) == expected(world)[0]


@given(world=worlds(), parts=st.integers(1, 4))
@settings(max_examples=25)
def test_parts_of_components_give_the_answer_of_the_whole(tmp_path: Path, world: World, parts: int) -> None:
    held, sightings = world.standing(), counted(world)
    path = tmp_path / "sets.parquet"
    file_of(sightings, path)
    found: dict[bytes, str] = {}
    profiles = merges = 0
    for part in resolve_by_component(
        [path],
        held.rules,
        KEY,
        parts=parts,
        identifiers_max=50,
        unlinks=ids_of([one for pair in held.unlinks for one in sorted(pair)]),
        quarantined=ids_of(sorted(world.poison())),
    ):
        rows = mapping(part, 10)
        assert not rows.keys() & found.keys()
        found |= rows
        profiles += part.totals.profiles
        merges += part.totals.merges
    assert (found, profiles, merges) == expected(world)
