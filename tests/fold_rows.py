"""The rows that the first steps of a rebuild would keep, from folds of everything in memory."""

import random
from collections.abc import Iterable, Sequence

import pyarrow as pa

from profilelake.engines.kept import KeptFile, keep
from profilelake.engines.keys import parts_by_id
from profilelake.lake.storage import Storage
from profilelake.pipeline.fold_state import records
from profilelake.pipeline.rebuild import Fold
from profilelake.plans.identity import Resolved
from profilelake.plans.rows import (
    FOUNDED,
    KNOWN,
    LINKS,
    OWNED,
    QUARANTINE,
    SETS,
    STATEMENTS,
    VALUES,
    WINDOWS,
    WRITES,
)
from profilelake.state.records import NOBODY


def resolved(
    folds: Sequence[Fold], storage: Storage, folder: str, set_parts: int, ident_parts: int, rng: random.Random
) -> Resolved:
    """Keep what was folded in so many parts; rows of sets and identifiers lie in files at random."""
    rows: dict[str, list[dict[str, object]]] = {
        name: [] for name in ("sets", "owned", "founded", "windows", "quarantine", "values", "known")
    }
    writes, statements, links = WRITES.empty_table(), STATEMENTS.empty_table(), LINKS.empty_table()
    for folded in folds:
        for name, some in _rows_of(folded).items():
            rows[name] += some
        writes = pa.concat_tables([writes, folded.facts.traits.select(WRITES.names).cast(WRITES)])
        said = folded.facts.statements.select(STATEMENTS.names).cast(STATEMENTS)
        statements = pa.concat_tables([statements, said])
        links = pa.concat_tables([links, folded.facts.links.select(LINKS.names).cast(LINKS)])

    def anywhere(name: str, schema: pa.Schema) -> list[KeptFile]:
        shuffled = rng.sample(rows[name], len(rows[name]))
        half = len(shuffled) // 2
        return [
            file
            for some in (shuffled[:half], shuffled[half:])
            for file in keep(storage, f"{folder}/{name}", pa.Table.from_pylist(some, schema=schema))
        ]

    def parted(name: str, table: pa.Table, by: str, parts: int) -> list[KeptFile]:
        numbers = parts_by_id(table.column(by), parts)
        return [
            file
            for part in range(parts)
            for file in keep(storage, f"{folder}/{name}", table.filter(pa.array(numbers == part)), part)
        ]

    values = pa.Table.from_pylist(rows["values"], schema=VALUES)
    known = pa.Table.from_pylist(rows["known"], schema=KNOWN)
    return Resolved(
        set_parts=set_parts,
        ident_parts=ident_parts,
        known=parted("known", known, "set_id", set_parts),
        writes=parted("writes", writes, "set_id", set_parts),
        statements=parted("statements", statements, "set_id", set_parts),
        links=parted("links", links, "set_id", set_parts),
        values=parted("values", values, "ident_id", ident_parts),
        sets=anywhere("sets", SETS),
        owned=anywhere("owned", OWNED),
        founded=anywhere("founded", FOUNDED),
        windows=anywhere("windows", WINDOWS),
        quarantine=anywhere("quarantine", QUARANTINE),
        values_lost=0,
    )


def _rows_of(folded: Fold) -> dict[str, list[dict[str, object]]]:
    held, collection = records(folded), folded.collection
    members = {key: set_.idents for key, set_ in held.sets.items()}
    types = {key: ident.type for key, ident in held.idents.items()}

    def listed(idents: bytes) -> list[dict[str, object]]:
        each: Iterable[bytes] = (idents[start : start + 16] for start in range(0, len(idents), 16))
        return [{"type": types[ident], "ident_id": ident} for ident in each]

    def some(key: bytes) -> bytes | None:
        return None if key == NOBODY else key

    return {
        "known": [
            {"set_id": key, "collection": collection, "identifiers": listed(idents)}
            for key, idents in members.items()
        ],
        "values": [
            {"ident_id": key, "collection": collection, "type": ident.type, "value": ident.value}
            for key, ident in held.idents.items()
        ],
        "sets": [
            {
                "set_id": key,
                "collection": collection,
                "identifiers": listed(one.idents),
                "anchor": some(one.anchor),
                "profile": some(one.profile),
                "first_profile": some(one.first_profile),
                "refused": [
                    {
                        "ident_id": refusal.ident,
                        "type": refusal.type,
                        "against": some(refusal.against_profile),
                        "cause": refusal.cause,
                        "limit_type": refusal.limit_type or None,
                    }
                    for refusal in held.refusals.get(key, [])
                ],
                "position": one.position,
                "message_id": one.message_id,
                "source_id": one.source_id,
                "last_position": held.activity[key].position,
                "last_message_id": held.activity[key].message_id,
                "last_source_id": held.activity[key].source_id,
                "events": held.activity[key].count,
            }
            for key, one in held.sets.items()
        ],
        "owned": [
            {
                "ident_id": key,
                "profile": some(one.profile),
                "linked_at": one.linked_at,
                "position": one.position,
                "message_id": one.message_id,
                "source_id": one.source_id,
            }
            for key, one in held.idents.items()
        ],
        "founded": [
            {"profile": key, "collection": collection, "merges": one.merges}
            for key, one in held.profiles.items()
        ],
        "windows": [
            {
                "set_id": key[:16],
                "window": int.from_bytes(key[16:], "big"),
                "position": seen.position,
                "message_id": seen.message_id,
                "source_id": seen.source_id,
            }
            for key, seen in held.sightings.items()
        ],
        "quarantine": [
            {
                "ident_id": key,
                "collection": collection,
                "type": one.type,
                "degree": one.degree,
                "position": one.position,
                "active": one.active,
                "again_at": one.again_at,
                "extra": one.extra,
            }
            for key, one in held.quarantine.items()
        ],
    }
