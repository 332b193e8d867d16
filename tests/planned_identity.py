"""Who is who by the batch plan: tables of facts as files, the plan over them, and its rows as records."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import schema_to_pyarrow

from fold_cases import KEY
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import Engine
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile, read_kept
from profilelake.engines.keys import parts_by_id
from profilelake.identity.facts import Standing
from profilelake.identity.tables import IDENTIFIERS
from profilelake.lake.pinned import PinnedFile, PinnedTable, Shape
from profilelake.lake.schema import changes_definition, iceberg_schema
from profilelake.lake.storage import LocalStorage
from profilelake.lake.tables import TableDef
from profilelake.pipeline.fold_spells import memberships
from profilelake.pipeline.fold_state import Records
from profilelake.plans.components import Limits
from profilelake.plans.facts import TABLES, FactFiles
from profilelake.plans.identity import Resolved, resolve
from profilelake.plans.rows import LINKS
from profilelake.plans.sizes import Sizes
from profilelake.plans.values import valued
from profilelake.semantics.identifiers import ident_id, public_id
from profilelake.semantics.identity import IdentityGraph
from profilelake.semantics.rules import COLLECTIONS, Collection
from profilelake.state.records import (
    NOBODY,
    ActivityRecord,
    ConsentRecord,
    IdentRecord,
    QuarantineRecord,
    RefusalRecord,
    SetRecord,
    SightingRecord,
    TraitRecord,
)


def fact_files(folder: Path, tables: Mapping[str, pa.Table], files: int = 1, log: int = 0) -> FactFiles:
    """Write tables of facts, each in so many files; the last `log` identifiers are in the change log."""
    pinned = {}
    for definition in TABLES:
        rows = tables[definition.name]
        if definition is IDENTIFIERS:
            cut = max(0, rows.num_rows - log)
            changes = rows.slice(cut)
            number = pa.array(range(10, 10 + changes.num_rows), pa.int64())
            for name, column in (("op", pa.repeat(pa.scalar("upsert"), changes.num_rows)), ("seq", number)):
                changes = changes.add_column(0, name, column)
            old = rows.slice(cut, 1 if log else 0)
            # The base has one of them, too, as it was before, and the log what the base has already.
            base = _pinned(folder, definition, pa.concat_tables([rows.slice(0, cut), old]), files)
            merged = rows.slice(0, 1).add_column(0, "op", [["delete"] * min(1, rows.num_rows)])
            merged = merged.add_column(0, "seq", [pa.array([9] * merged.num_rows, pa.int64())])
            logged = changes_definition(definition)
            written = _pinned(folder, logged, pa.concat_tables([merged, changes]), 2) if log else ()
            shape = Shape(_schema(definition), definition.key, _schema(logged), 9)
            pinned[definition.name] = PinnedTable(definition.name, shape, base, written, (1, 2))
        else:
            shape = Shape(_schema(definition))
            made = _pinned(folder, definition, rows, files)
            pinned[definition.name] = PinnedTable(definition.name, shape, made, (), (1,))
    return FactFiles(pinned)


def _schema(definition: TableDef) -> str:
    return str(iceberg_schema(definition).model_dump_json())


def _pinned(folder: Path, definition: TableDef, rows: pa.Table, files: int) -> tuple[PinnedFile, ...]:
    schema = schema_to_pyarrow(iceberg_schema(definition))
    found = []
    for number in range(files):
        mine = rows.take(pa.array(range(number, rows.num_rows, files), pa.int64()))
        if mine.num_rows:
            path = folder / f"{definition.name}-{uuid.uuid4().hex}.parquet"
            pq.write_table(mine.select(schema.names).cast(schema), path)
            found.append(PinnedFile(str(path), mine.num_rows, path.stat().st_size))
    return tuple(found)


@dataclass(frozen=True)
class Cutting:
    """How finely a plan is cut."""

    sizes: Sizes
    limits: Limits


SMALL = Cutting(
    Sizes(part_bytes=20_000, part_members=8, sets_per_part=2),
    Limits(unit_sets=4, part_rows=16),
)
FINEST = Cutting(
    Sizes(share_bytes=1, part_bytes=2_000, part_members=4, sets_per_part=1),
    Limits(unit_sets=1, part_rows=1, finish_bytes=1),
)


def planned(
    folder: Path,
    files: FactFiles,
    held: Standing,
    untrusted: frozenset[str],
    cutting: Cutting | None = None,
    engine: Engine | None = None,
) -> tuple[LocalStorage, Resolved]:
    """Run the plan over files."""
    storage = LocalStorage(str(folder / "warehouse"))
    job = Job(storage, "test", [uuid.uuid4().hex])
    cut = {} if cutting is None else {"sizes": cutting.sizes, "limits": cutting.limits}
    resolved = resolve(
        engine or EmbeddedEngine(folder / "scratch"),
        job,
        files,
        held,
        untrusted,
        **cut,  # type: ignore[arg-type]
    )
    return storage, resolved


class Rows:
    """The rows that a plan kept, as Python values."""

    def __init__(self, storage: LocalStorage, resolved: Resolved) -> None:
        self._storage, self._resolved = storage, resolved

    def table(self, files: Iterable[KeptFile]) -> list[dict[str, Any]]:
        """Return the rows of files."""
        return [row for file in files for part in read_kept(self._storage, file) for row in part.to_pylist()]

    def check_parts(self) -> None:
        """Rows by set or identifier are in the part that their id says."""
        resolved = self._resolved
        by_set = (resolved.known, resolved.writes, resolved.statements, resolved.links)
        keyed = [(files, "set_id", resolved.set_parts) for files in by_set]
        for files, key, parts in [*keyed, (resolved.values, "ident_id", resolved.ident_parts)]:
            for file in files:
                for part in read_kept(self._storage, file):
                    assert set(parts_by_id(part.column(key), parts).tolist()) == {file.part}

    def records(self, held: Standing) -> dict[str, dict[bytes, Any]]:
        """Return what the rows say of all collections, in the form of the online state."""
        resolved = self._resolved
        sets = self.table(resolved.sets)
        owned = self._owned()
        number = {name: place for place, name in enumerate(COLLECTIONS)}
        collection = {row["set_id"]: number[row["collection"]] for row in sets}
        assert len(collection) == len(sets)
        links = [part for file in resolved.links for part in read_kept(self._storage, file)]
        return {
            "sets": {
                row["set_id"]: SetRecord(
                    collection[row["set_id"]],
                    b"".join(sorted(member["ident_id"] for member in row["identifiers"])),
                    row["anchor"] or b"",
                    row["profile"] or NOBODY,
                    row["first_profile"] or NOBODY,
                    row["position"],
                    row["message_id"],
                    row["source_id"],
                    bool(row["refused"]),
                )
                for row in sets
            },
            "activity": {
                row["set_id"]: ActivityRecord(
                    row["events"], row["last_position"], row["last_message_id"], row["last_source_id"]
                )
                for row in sets
            },
            "refusals": {
                row["set_id"]: [
                    RefusalRecord(
                        one["ident_id"], one["type"], one["against"], one["cause"], one["limit_type"] or ""
                    )
                    for one in row["refused"]
                ]
                for row in sets
                if row["refused"]
            },
            "idents": {
                ident: IdentRecord(
                    number[row["collection"]],
                    row["type"],
                    row["value"],
                    row["source_id"],
                    row["message_id"],
                    int.from_bytes(row["position"][:8], "big"),
                    row["position"],
                    row["profile"] or NOBODY,
                    row["linked_at"],
                )
                for ident, row in owned.items()
            },
            "merges": {row["profile"]: row["merges"] for row in self.table(resolved.founded)},
            "sightings": {
                row["set_id"] + row["window"].to_bytes(8, "big"): SightingRecord(
                    row["position"], row["message_id"], row["source_id"]
                )
                for row in self.table(resolved.windows)
            },
            "quarantine": {
                row["ident_id"]: QuarantineRecord(
                    number[row["collection"]],
                    *(row[name] for name in ("type", "degree", "position", "active", "again_at", "extra")),
                )
                for row in self.table(resolved.quarantine)
            },
            "traits": self._traits(),
            "consent": self._consent(),
            "memberships": memberships(
                pa.concat_tables([LINKS.empty_table(), *links]).combine_chunks(), held
            ),
        }

    def _owned(self) -> dict[bytes, dict[str, Any]]:
        """Return the one row of each identifier."""
        values = {file.part: file for file in self._resolved.values}
        found: dict[bytes, dict[str, Any]] = {}
        for file in self._resolved.owned:
            for rows in read_kept(self._storage, file):
                numbers = parts_by_id(rows.column("ident_id"), self._resolved.ident_parts)
                for part in set(numbers.tolist()):
                    mine = rows.filter(pa.array(numbers == part))
                    texts = pa.concat_tables(list(read_kept(self._storage, values[part])))
                    for row in valued(mine, texts).to_pylist():
                        held = found.get(row["ident_id"])
                        # One that may link is in one part only.
                        assert held is None or (held["profile"] is None and row["profile"] is None)
                        if held is None or row["position"] < held["position"]:
                            found[row["ident_id"]] = row
        return found

    def _traits(self) -> dict[bytes, dict[str, TraitRecord]]:
        found: dict[bytes, dict[str, TraitRecord]] = {}
        columns = ("value", "timestamp", "position", "source_id", "message_id")
        for row in self.table(self._resolved.writes):
            told = found.setdefault(row["set_id"], {})
            assert row["trait"] not in told
            told[row["trait"]] = TraitRecord(*(row[name] for name in columns))
        return found

    def _consent(self) -> dict[bytes, ConsentRecord]:
        found: dict[bytes, ConsentRecord] = {}
        columns = ("timestamp", "position", "source_id", "message_id")
        for row in self.table(self._resolved.statements):
            record = ConsentRecord(*(row[name] for name in columns), {})
            told = found.setdefault(row["set_id"], record)
            if row["category"] is not None:
                told.allowed[row["category"]] = row["allowed"]
        return found


def in_memory(parts: Sequence[Records]) -> dict[str, dict[bytes, Any]]:
    """Return the records of all collections in the form of `Rows.records`."""
    found: dict[str, dict[bytes, Any]] = {}
    for name in (
        "sets",
        "activity",
        "refusals",
        "idents",
        "sightings",
        "quarantine",
        "traits",
        "consent",
        "memberships",
    ):
        found[name] = {key: record for part in parts for key, record in getattr(part, name).items()}
    for record in found["sets"].values():
        record.idents = b"".join(sorted(record.idents[i : i + 16] for i in range(0, len(record.idents), 16)))
    found["merges"] = {key: record.merges for part in parts for key, record in part.profiles.items()}
    return found


def check_against_reference(
    said: Mapping[str, Mapping[bytes, Any]], graph: IdentityGraph, collection: Collection
) -> None:
    """The records of one collection are what the reference says."""
    number = COLLECTIONS.index(collection)

    def name(profile: bytes) -> str | None:
        return None if profile == NOBODY else public_id(collection, profile)

    sets = {key: record for key, record in said["sets"].items() if record.collection == number}
    assert sets.keys() == {outcome.set_id for outcome in graph.sets.values()}
    for outcome in graph.sets.values():
        record = sets[outcome.set_id]
        assert (name(record.profile), name(record.first_profile)) == (outcome.profile, outcome.first_profile)
        assert record.anchor == (ident_id(KEY, collection, outcome.anchor) if outcome.anchor else b"")
        assert record.position == outcome.first_position
    owners = {
        (record.type, record.value): name(record.profile)
        for record in said["idents"].values()
        if record.collection == number and record.profile != NOBODY
    }
    assert owners == {
        (identifier.type, identifier.value): owner for identifier, owner in graph.owners.items() if owner
    }
    refused: dict[bytes, list[tuple[bytes, str | None, str, str]]] = {}
    for one in graph.refusals:
        ident = ident_id(KEY, collection, one.identifier)
        refused.setdefault(one.set_id, []).append((ident, one.profile, one.cause, one.type or ""))
    assert refused == {
        key: [(one.ident, name(one.against_profile), one.cause, one.limit_type) for one in listed]
        for key, listed in said["refusals"].items()
        if key in sets
    }
    living = {name(key) for key in said["merges"] if key in sets}
    assert living == graph.profiles.keys()
