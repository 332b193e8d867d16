"""What tasks wrote of a part each, held against the fold of everything in memory."""

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fold_rows import resolved
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile, read_kept
from profilelake.lake.catalog import Lake
from profilelake.lake.handover import TableFiles
from profilelake.lake.schema import BUCKETS, SLOTS
from profilelake.lake.storage import LocalStorage, Storage
from profilelake.pipeline.fold_state import records
from profilelake.pipeline.fold_tables import whole_tables
from profilelake.pipeline.rebuild import Fold
from profilelake.plans.profiles import TABLES, Written, write_profiles
from profilelake.state.records import (
    decode_activity,
    decode_consent,
    decode_ident,
    decode_membership,
    decode_profile,
    decode_refusals,
    decode_set,
    decode_sighting,
    decode_traits,
)
from profilelake.state.store import Db

WORKSPACE = "default"


def table_files(lake: Lake) -> dict[str, TableFiles]:
    return {table.name: lake.current_table(WORKSPACE, table).base.files_elsewhere() for table in TABLES}


def written_in_parts(
    folds: Sequence[Fold],
    tables: Mapping[str, TableFiles],
    folder: Path,
    parts: tuple[int, int, int],
    seed: int,
) -> Written:
    storage = LocalStorage(str(folder / "warehouse"))
    job = Job(storage, "test", [seed])
    found = resolved(folds, storage, job.folder("resolved"), parts[0], parts[1], random.Random(seed))
    held, policy = folds[0].held, folds[0].policy
    engine = EmbeddedEngine(folder / "scratch")
    return write_profiles(engine, job, found, tables, held, policy, parts[2])


def check_tables(written: Written, folds: Sequence[Fold]) -> None:
    """The files have the rows of the folds, byte for byte, in the order of slots and keys."""
    for name, wanted in whole_tables(folds).items():
        key = next(table.key for table in TABLES if table.name == name)
        order = [("slot", "ascending"), (str(key), "ascending")]
        files = written.tables[name]
        assert sum(file.rows for file in files) == wanted.num_rows
        tables = [pq.read_table(file.location.removeprefix("file://"), partitioning=None) for file in files]
        for file, table in zip(files, tables, strict=True):
            assert table.equals(table.sort_by(order))
            (bucket,) = {slot - slot % (SLOTS // BUCKETS) for slot in table.column("slot").to_pylist()}
            assert file.partition == [bucket]
        found = pa.concat_tables([wanted.schema.empty_table(), *(t.cast(wanted.schema) for t in tables)])
        assert found.sort_by(order).to_pylist() == wanted.sort_by(order).to_pylist()


def state_rows(storage: Storage, files: Sequence[KeptFile]) -> dict[str, list[tuple[bytes, bytes]]]:
    """Return the rows of the state by database, in the order in which they are loaded."""
    found: dict[str, list[tuple[bytes, bytes]]] = {}
    for file in files:
        for rows in read_kept(storage, file):
            for db, key, value in zip(*(column.to_pylist() for column in rows.columns), strict=True):
                found.setdefault(db, []).append((key, value))
    return found


def check_state(rows: Mapping[str, Sequence[tuple[bytes, bytes]]], folds: Sequence[Fold]) -> None:
    """Rows of the state decode to the records of the folds; keys of each database ascend."""
    held = [records(folded) for folded in folds]
    for some in rows.values():
        assert all(one < other for one, other in pairwise(some))
    decoders: dict[Db, tuple[str, Callable[[bytes], Any]]] = {
        Db.IDENT: ("idents", decode_ident),
        Db.SET: ("sets", decode_set),
        Db.ACTIVITY: ("activity", decode_activity),
        Db.PROFILE: ("profiles", decode_profile),
        Db.TRAITS: ("traits", decode_traits),
        Db.REFUSALS: ("refusals", decode_refusals),
        Db.SIGHTING: ("sightings", decode_sighting),
        Db.CONSENT: ("consent", decode_consent),
        Db.ACCOUNTS_OF: ("memberships", decode_membership),
    }
    for db, (name, decode) in decoders.items():
        wanted = {key: _plain(one) for part in held for key, one in getattr(part, name).items()}
        found = {key: _plain(decode(value)) for key, value in rows.get(db, ())}
        assert found == wanted, db
    links = sorted(pair for part in held for pair in part.links)
    assert list(rows.get(Db.LINKS, ())) == links
    members = sorted(pair[16:] + pair[:16] for part in held for pair in part.memberships)
    assert list(rows.get(Db.MEMBERS, ())) == [(pair, b"") for pair in members]


def _plain(record: Any) -> Any:
    """Return a record without the order of what has none."""
    if hasattr(record, "idents") and isinstance(record.idents, bytes):
        members = sorted(record.idents[start : start + 16] for start in range(0, len(record.idents), 16))
        return [members if name == "idents" else getattr(record, name) for name in record.__struct_fields__]
    if hasattr(record, "sets"):
        return [record.collection, record.position, sorted(record.idents), sorted(record.sets), record.merges]
    return record
