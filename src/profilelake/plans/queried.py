"""What queries of definitions gave, brought to profiles on any engine: rows of entities, values of SQL definitions.

A query runs once, where it may; its result is a file on that machine. From there on it is rows like others: tasks make
JSON of them and bring them together with the owners of their ids, by the hash of the id, and then by profile.
`audiences.sql_contract` says what a result has to be.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from profilelake.audiences.queried import GIVEN, Queried
from profilelake.audiences.reading import MEMORY_LIMIT
from profilelake.audiences.sql_contract import (
    NOTHING,
    Columns,
    columns_of,
    ids_of,
    refuse_ids,
    texts_of,
)
from profilelake.engines.engine import Cut, Engine
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile, keep, read_kept
from profilelake.engines.keys import parts_by_id, power_of_two
from profilelake.errors import Unavailable
from profilelake.kernels.siphash import HASH_BYTES, hash_strings, to_arrow
from profilelake.lake import sql
from profilelake.lake.storage import Storage
from profilelake.plans.definition_inputs import (
    CUT_ROWS,
    UNIT_ROWS,
    Inputs,
    Owners,
    Unit,
    batches,
    kept_units,
    opened,
    part_of_profile,
    units,
)
from profilelake.semantics.definitions import Definition, Target
from profilelake.semantics.identifiers import (
    ident_prefix,
    normalised,
    normaliser_of,
    parse_public_id,
)
from profilelake.semantics.rules import IdentityRules

FILE_ROWS: Final = 1 << 19
"""Rows of a result that one task makes JSON of."""
NAMED_MAX: Final = 1 << 20
"""Ids among which every task may look for those of its owners; where there are more, all owners are sent."""
PARTS_PER_UNIT: Final = 16
"""Into how many parts as many rows are brought as one unit has."""
ROW_BYTES: Final = 256
"""Bytes of a row of usual length."""

GIVEN_SENT: Final = pa.schema([*GIVEN, ("part", pa.int32())])
_ID: Final = pa.binary(HASH_BYTES)
_SAID: Final = pa.schema([("key", _ID), ("number", pa.int32()), ("id", pa.string()), ("text", pa.string())])
_OWNERS: Final = pa.schema([("key", _ID), ("profile_id", pa.string())])
_ROW: Final = "row"
_NO_RULES: Final = IdentityRules(version=0, types=())
_UNKNOWN: Final = bytes(HASH_BYTES)
"""The key of an id that is none: nothing has it."""

_DIGEST: Final = (
    "SELECT count(*), bit_xor(hash(said)), sum(hash(said)::HUGEINT) FROM read_parquet($path) AS said"
)
_IDS: Final = """
    SELECT sum(rows) FILTER (id IS NULL), sum(rows) FILTER (id = ''), max(rows)
    FROM (SELECT {id}::VARCHAR AS id, count(*) AS rows FROM read_parquet($path) GROUP BY ALL)
"""
"""How many rows have no id, how many an empty one, and how many have one id at most."""

_encode: Final = msgspec.msgpack.Encoder().encode


class Given(msgspec.Struct, frozen=True):
    """Files of `GIVEN_SENT`: what people were given by queries, and what accounts were."""

    people: list[KeptFile]
    accounts: list[KeptFile]


_decode: Final = msgspec.msgpack.Decoder(Given).decode


@dataclass(frozen=True, slots=True)
class Result:
    """What the query of a definition gave: a Parquet file on this machine, as it has to be."""

    definition: Definition
    path: Path
    columns: Columns
    rows: int
    bytes: int
    """Of its values, before they were compressed."""

    @classmethod
    def read(cls, definition: Definition, path: Path) -> "Result":
        """Look at a file: whatever can be known of it before its rows become JSON.

        Raises:
            Invalid: its columns, their types or its ids are not what the contract asks for.
            Unavailable: it cannot be read.
        """
        try:
            about = pq.read_metadata(path)
            schema = pq.read_schema(path)
        except (pa.ArrowException, OSError) as error:
            raise Unavailable(f"reading the result of a query: {error}; run it again") from error
        columns = columns_of(schema, about.num_rows, definition)
        nothing = schema.empty_table()
        ids_of(nothing, columns, definition)
        texts_of(nothing.select(columns.others), definition)
        size = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
        found = cls(definition, path, columns, about.num_rows, size)
        missing, empty, repeated = found._told(_IDS.format(id=sql.identifier(columns.id)))
        refuse_ids(missing, empty, repeated, columns, definition)
        return found

    @property
    def by(self) -> Owners:
        """Among what its ids are looked up."""
        return "sets" if self.columns.id_type == "profile_id" else "identifiers"

    @property
    def weight(self) -> int:
        """As how many rows it counts where rows are divided: long ones count as several."""
        return max(self.rows, self.bytes // ROW_BYTES)

    def digest(self) -> list[int]:
        """Return what tells it from other results: the same rows in another order give the same."""
        return self._told(_DIGEST)

    def _told(self, select: str) -> list[int]:
        """Return the numbers that a SELECT of one row says of the file, within bounded memory."""
        connection = sql.connect(MEMORY_LIMIT, str(self.path.parent))
        try:
            found = connection.execute(select, {"path": str(self.path)}).fetchall()[0]
        except duckdb.Error as error:
            raise Unavailable(f"reading the result of a query: {error}; run it again") from error
        finally:
            connection.close()
        return [int(number or 0) for number in found]


@dataclass(frozen=True, slots=True)
class Results:
    """What queries gave, and how ids are looked up. It stays on this machine: it has the key that hides ids."""

    of: tuple[Result, ...] = ()
    key: bytes = field(default=b"", repr=False)
    rules: IdentityRules = _NO_RULES

    @property
    def owners(self) -> frozenset[Owners]:
        """Among what ids are looked up."""
        return frozenset(result.by for result in self.of)

    def weight(self, of: Target) -> int:
        """As how many rows those about people, or about accounts, count where rows are divided."""
        return sum(result.weight for result in self.of if result.definition.target == of)

    def among(self, definitions: Sequence[Definition]) -> "Results":
        """Return those of some definitions."""
        return replace(self, of=tuple(one for one in self.of if one.definition in definitions))

    def said(self) -> list[object]:
        """Return what tells these results from others."""
        return [
            [
                result.definition.key,
                repr(result.definition),
                result.digest(),
                normaliser_of(self.rules, result.definition.target, result.columns.id_type),
            ]
            for result in self.of
        ]

    def keys(self, ids: pa.ChunkedArray, result: Result) -> pa.Array:
        """Return under what ids are found among their owners.

        Raises:
            Invalid: one is missing, or empty.
        """
        target, id_type = result.definition.target, result.columns.id_type
        if result.by == "sets":
            parsed = [parse_public_id(id) for id in ids.to_pylist()]
            return pa.array([_UNKNOWN if one is None or one[0] != target else one[1] for one in parsed], _ID)
        if normaliser_of(self.rules, target, id_type) != "none":
            told = [normalised(self.rules, target, id_type, id) for id in ids.to_pylist()]
            ids = pa.chunked_array([pa.array(told, pa.string())])
        return to_arrow(hash_strings(self.key, ident_prefix(target, id_type), ids))

    def read(self, result: Result, rows_max: int) -> Iterator[pa.Table]:
        """Yield the rows of a result, some at a time: `key`, `id`, and the other columns as one."""
        with pq.ParquetFile(result.path) as file:
            for batch in file.iter_batches(rows_max):
                rows = pa.Table.from_batches([batch])
                ids = ids_of(rows, result.columns, result.definition)
                columns = [self.keys(ids, result), ids.cast(pa.string())]
                names = ["key", "id"]
                if others := result.columns.others:
                    fields = [rows.column(name).combine_chunks() for name in others]
                    columns.append(pa.StructArray.from_arrays(fields, others))
                    names.append(_ROW)
                yield pa.table(columns, names=names)


def texts(rows: pa.Table, definition: Definition, number: int) -> pa.Table:
    """Return rows of `Results.read` with JSON, as the query of the definition in this place gave them.

    Raises:
        Invalid: a value is of no type that JSON has, or a row is too long.
    """
    others = pa.table({})
    if _ROW in rows.column_names:
        row = rows.column(_ROW).combine_chunks()
        others = pa.table(row.flatten(), names=[field.name for field in row.type])
        told = texts_of(others, definition)
    else:
        told = texts_of(rows, definition)
    said = [rows.column("key"), pa.repeat(pa.scalar(number, pa.int32()), rows.num_rows), rows.column("id")]
    found = pa.table([*said, pa.array(told, pa.string())], schema=_SAID)
    if definition.kind == "sql_trait":
        found = found.filter(pc.not_equal(found.column("text"), NOTHING))
    return found


def bring(
    engine: Engine,
    job: Job,
    inputs: Inputs,
    results: Results,
    queried: Queried,
    owners: int,
    parts: Mapping[Target, int],
) -> Given:
    """Return files of what queries gave whom. Of `owners` there are about so many; profiles are in `parts`.

    Raises:
        Invalid: a result is not what the contract asks for.
    """
    copied = job.step("queried", lambda: [_copied(job, one, results, queried) for one in results.of])
    files = [file for body in copied.values() for file in _decode_files(body)]
    rows = sum(file.rows for file in files)
    weight = sum(result.weight for result in results.of)
    by_key = power_of_two(max(weight, owners) / UNIT_ROWS * PARTS_PER_UNIT)
    found = job.step(
        "given",
        lambda: engine.spread(
            "given",
            [*kept_units("said", files), *units("owners", inputs.owners)],
            _ByKey(job.storage, by_key, queried, tuple(files) if rows <= NAMED_MAX else ()),
            {"said": _SAID, "owners": _OWNERS},
            by_key,
            _Give(job.storage, job.folder("given"), queried, tuple(parts.items())),
        ),
    )
    given = [_decode(body) for body in found.values()]
    return Given(
        [file for one in given for file in one.people], [file for one in given for file in one.accounts]
    )


_decode_files: Final = msgspec.msgpack.Decoder(list[KeptFile]).decode


def _copied(job: Job, result: Result, results: Results, queried: Queried) -> bytes:
    """Put a result where tasks find it, under the hashes of its ids."""
    number = queried.definitions.index(result.definition)
    return _encode(
        [
            file
            for rows in results.read(result, FILE_ROWS)
            for file in keep(job.storage, job.folder("queried"), rows, number)
        ]
    )


@dataclass(frozen=True, slots=True)
class _ByKey:
    """Spreads what was said, and the owners of ids, by the hash of the id.

    Where `named` has files, only owners of the ids in these are sent.
    """

    storage: Storage
    parts: int
    queried: Queried
    named: tuple[KeptFile, ...]

    def __call__(self, unit: Unit) -> Iterator[Cut]:
        if unit.file is not None:
            number = unit.file.part
            for rows in read_kept(self.storage, unit.file, rows=CUT_ROWS):
                said = texts(rows, self.queried.definitions[number], number)
                yield Cut("said", said, parts_by_id(said.column("key"), self.parts))
            return
        with opened(self.storage) as connection:
            select = unit.select
            if self.named:
                read = (rows for file in self.named for rows in read_kept(self.storage, file, ["key"]))
                connection.register("named", pa.concat_tables(read))
                select = f"FROM ({select}) SEMI JOIN named USING (key)"
            for rows in batches(connection, select):
                owners = rows.select(_OWNERS.names).cast(_OWNERS)
                yield Cut("owners", owners, parts_by_id(owners.column("key"), self.parts))


_BY_ID: Final = """
    SELECT key, number, id, string_agg(text, ',' ORDER BY text) AS text FROM said GROUP BY ALL
"""
"""The rows of each id as one text. Texts are ordered by their bytes, which is the order of their characters."""


@dataclass(frozen=True, slots=True)
class _Give:
    """Keeps what was said of whom, with the part that the profile is in."""

    storage: Storage
    folder: str
    queried: Queried
    parts: tuple[tuple[Target, int], ...]

    def __call__(self, part: int, tables: Mapping[str, pa.Table]) -> bytes:
        given: dict[Target, list[KeptFile]] = {"users": [], "accounts": []}
        if tables["said"].num_rows:
            with opened(self.storage) as connection:
                for name, rows in tables.items():
                    connection.register(name, rows)
                connection.execute(f"CREATE TEMP TABLE by_id AS {_BY_ID}")
                for target, parts in self.parts:
                    select = f"SELECT *, {part_of_profile(parts)} FROM ({given_to(self.queried, target)})"  # noqa: S608 - made here
                    found = connection.sql(select).to_arrow_table()
                    found = found.select(GIVEN_SENT.names).cast(GIVEN_SENT)
                    given[target] = keep(self.storage, self.folder, found, part)
        return _encode(Given(given["users"], given["accounts"]))


def given_to(queried: Queried, target: Target) -> str:
    """Return the SELECT of `GIVEN` of one kind of profiles, for a connection with `by_id` and `owners`."""
    mine = [number for number, one in enumerate(queried.definitions) if one.target == target]
    listed = ", ".join(f"{number:d}" for number in mine) or "NULL"
    return (
        f"SELECT profile_id, number, id, text FROM by_id JOIN owners USING (key) WHERE number IN ({listed})"  # noqa: S608 - numbers
    )


def given_here(
    connection: duckdb.DuckDBPyConnection,
    results: Results,
    queried: Queried,
    owners: Mapping[Owners, str],
    of: pa.Table,
) -> pa.Table:
    """Return what queries gave some profiles (`profile_id`), as `GIVEN`. `owners` are SELECTs of `key` and `profile_id`."""
    connection.register("asked_for", of)
    owned = [
        connection.sql(f"FROM ({owners[by]}) SEMI JOIN asked_for USING (profile_id)").to_arrow_table()
        for by in sorted(results.owners)
    ]
    known = pa.concat_tables(
        [_OWNERS.empty_table(), *(rows.select(_OWNERS.names).cast(_OWNERS) for rows in owned)]
    )
    keys = known.column("key").combine_chunks()
    said = [_SAID.empty_table()]
    for result in results.of:
        number = queried.definitions.index(result.definition)
        for rows in results.read(result, FILE_ROWS):
            theirs = rows.filter(pc.is_in(rows.column("key"), value_set=keys))
            said.append(texts(theirs, result.definition, number))
    connection.register("said", pa.concat_tables(said))
    connection.register("owners", known)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE by_id AS {_BY_ID}")
    found = [connection.sql(given_to(queried, target)).to_arrow_table() for target in ("users", "accounts")]
    return pa.concat_tables([rows.select(GIVEN.names).cast(GIVEN) for rows in found])
