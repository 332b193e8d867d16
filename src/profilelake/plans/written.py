"""What the last steps of a rebuild have in common: rows cut by an id, and files of tables and state by part."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.engines.engine import Cut
from profilelake.engines.kept import KeptFile, keep, read_kept
from profilelake.engines.keys import parts_by_id
from profilelake.errors import Internal
from profilelake.kernels import siphash
from profilelake.kernels.dense import dense_numbers
from profilelake.lake.handover import HandedFile, TableFiles
from profilelake.lake.storage import Storage
from profilelake.pipeline.fold_facts import Rows
from profilelake.pipeline.fold_profiles import public_ids
from profilelake.plans.rows import ID
from profilelake.semantics.rules import COLLECTIONS
from profilelake.state.packed import Packed
from profilelake.state.store import Db

FilesByPart: TypeAlias = Mapping[int, Sequence[KeptFile]]

STATE: Final = pa.schema([("db", pa.string()), ("key", pa.binary()), ("value", pa.large_binary())])
"""Rows of the online state; those of one database stand together, their keys ascending."""

StateRows: TypeAlias = tuple[Db, pa.Array, Packed]


class Made(msgspec.Struct, frozen=True):
    """What a task made of its part: files for tables, rows of the state, rows for the next step."""

    tables: dict[str, list[HandedFile]]
    state: list[KeptFile] = []
    kept: dict[str, list[KeptFile]] = {}
    rows: int = 0
    """How many sets, identifiers or profiles there are in the part."""


def made(answers: Mapping[int, bytes]) -> list[Made]:
    """Return what all tasks of a step made, in the order of the parts."""
    return [msgspec.msgpack.decode(answers[part], type=Made) for part in sorted(answers)]


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of kept rows, under the name of the input it is for."""

    input: str
    file: KeptFile


@dataclass(frozen=True)
class CutById:
    """Cuts kept rows by an id in them; `columns` says for each input which."""

    storage: Storage
    columns: Mapping[str, str]
    schemas: Mapping[str, pa.Schema]
    parts: int

    def __call__(self, unit: Kept) -> Iterator[Cut]:
        """Yield the rows of one file."""
        names = self.schemas[unit.input].names
        for rows in read_kept(self.storage, unit.file, names):
            yield Cut(unit.input, rows, parts_by_id(rows.column(self.columns[unit.input]), self.parts))


def units(files: Mapping[str, Iterable[KeptFile]]) -> list[Kept]:
    """Return the units of a step that reads these files, by input."""
    return [Kept(name, file) for name, some in files.items() for file in some]


def by_part(files: Iterable[KeptFile]) -> dict[int, list[KeptFile]]:
    """Return files by the part that they hold."""
    found: dict[int, list[KeptFile]] = {}
    for file in files:
        found.setdefault(file.part, []).append(file)
    return found


def rows_of_part(storage: Storage, files: FilesByPart, part: int, schema: pa.Schema) -> pa.Table:
    """Return all rows that were kept of a part."""
    tables = [rows.cast(schema) for file in files.get(part, ()) for rows in read_kept(storage, file)]
    return pa.concat_tables([*tables, schema.empty_table()]).combine_chunks()


def write_part(files: TableFiles, rows: pa.Table) -> list[HandedFile]:
    """Write rows of a current table in the order of their slots and keys, each key once.

    Raises:
        Internal: a key is there twice.
    """
    key, slot = files.definition.key, files.definition.slot
    if key is None or slot is None:
        raise Internal(f"writing {files.definition.name}: a table without key and slot is not cut by them")
    rows = rows.sort_by([(slot, "ascending"), (key, "ascending")]).combine_chunks()
    keys = rows.column(key)
    if pc.any(pc.equal(keys[1:], keys[:-1]), min_count=0).as_py():
        raise Internal(f"writing {files.definition.name}: two rows have the same {key}")
    return files.write(rows)


def keep_state(storage: Storage, folder: str, part: int, rows: Iterable[StateRows]) -> list[KeptFile]:
    """Write rows of the state, each database after the other, keys ascending as they are given."""
    tables = (
        pa.table([pa.repeat(pa.scalar(str(db)), len(keys)), keys.cast(pa.binary()), values], schema=STATE)
        for db, keys, values in rows
    )
    return keep(storage, folder, tables, part)


# ---- ids ---------------------------------------------------------------------------------------


def ids_of(rows: pa.Table, column: str) -> siphash.Words:
    """Return a column of ids as words; a null gives whatever its slot holds."""
    return siphash.from_arrow(rows.column(column).cast(ID))


def key_order(*ids: siphash.Words) -> Rows:
    """Return the order of rows by their ids, compared as bytes, the first of them first."""
    keys = [column.byteswap() for words in reversed(ids) for column in (words[:, 1], words[:, 0])]
    order: Rows = np.lexsort(keys)
    return order


def places(known: siphash.Words, asked: siphash.Words) -> Rows:
    """Return for each asked id its row among the known ones (of equal ones the first), -1 where it is none."""
    numbers, first = dense_numbers(np.concatenate([known, asked]))
    found: Rows = first[numbers[len(known) :]]
    found[found >= len(known)] = -1
    return found


def collection_codes(rows: pa.Table) -> Rows:
    """Return the number of each row's collection in `COLLECTIONS`."""
    codes = pc.index_in(rows.column("collection"), value_set=pa.array(COLLECTIONS, pa.string()))
    numbers: Rows = codes.to_numpy().astype(np.int64)
    return numbers


def profile_names(rows: pa.Table, column: str) -> pa.Array:
    """Return the public ids of profiles that are named by their founding set; null where there is none."""
    return named(ids_of(rows, column), collection_codes(rows), rows.column(column).is_valid().to_numpy())


def named(ids: siphash.Words, codes: Rows, there: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> pa.Array:
    """Return the public ids of profiles of these collections, null where there is none."""
    order = np.argsort(codes, kind="stable")
    texts = pa.concat_arrays(
        [public_ids(name, ids[order[codes[order] == number]]) for number, name in enumerate(COLLECTIONS)]
    )
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return texts.take(pa.array(back, pa.int64(), mask=~there))
