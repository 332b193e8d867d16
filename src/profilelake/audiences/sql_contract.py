"""What the result of a SQL trait or audience has to be, and the result as ids and JSON values.

The contract is that of Segment's SQL traits: one column of ids, values that are texts, numbers or truth values,
no id twice and none missing. A result that breaks it is refused as a whole, and what was known stays.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.errors import Invalid
from profilelake.semantics.definitions import Definition

ID_COLUMNS: Final = ("user_id", "email", "anonymous_id", "group_id", "profile_id")
"""Names of the column with ids; each is a type of identifiers, but for the last."""
LINK: Final = "external_id"
"""Column with ids of the type that the definition names, whatever other columns there are."""
COLUMNS_MAX: Final = 25
ENTITY_COLUMNS_MAX: Final = 500
ROWS_MAX: Final = 25_000_000
ROW_BYTES_MAX: Final = 16 * 1024
"""JSON of one row."""
EVERY_SECONDS_DEFAULT: Final = 12 * 3_600
EVERY_SECONDS_MIN: Final = 60
_MEMBER: Final = "true"
NOTHING: Final = "null"
"""What a trait says of somebody it has no value for."""
_TIME: Final = pa.timestamp("us", tz="UTC")

_encode: Final = msgspec.json.Encoder(order="deterministic").encode


ENTITY_ROWS_MAX: Final = 1_000
"""Rows of one entity that are linked with one id: each evaluation of its profile goes through them."""


@dataclass(frozen=True, slots=True)
class SqlValues:
    """Ids of one type, sorted, each with the JSON text of what its profile is worth.

    Of an entity that is the array of its rows.
    """

    id_type: str
    ids: list[str]
    values: list[str]


def every_seconds(definition: Definition) -> int:
    """Return how often a definition runs."""
    return max(EVERY_SECONDS_MIN, definition.every_seconds or EVERY_SECONDS_DEFAULT)


class Columns(NamedTuple):
    """Which column of a result has the ids, of which type these are, and what other columns there are."""

    id: str
    id_type: str
    others: list[str]


def columns_of(schema: pa.Schema, rows: int, definition: Definition) -> Columns:
    """Return how a result of so many rows is to be read.

    Raises:
        Invalid: its columns, or how many rows there are, are not what the contract asks for.
    """
    most = ENTITY_COLUMNS_MAX if definition.kind == "entity" else COLUMNS_MAX
    if len(schema) > most:
        raise _broken(definition, f"it has {len(schema)} columns; give at most {most}")
    if rows > ROWS_MAX:
        raise _broken(definition, f"it has {rows:,} rows; give at most {ROWS_MAX:,}")
    column = _id_column(schema.names, definition)
    id_type = definition.id_type if column == LINK else column
    others = [name for name in schema.names if name != column]
    if definition.kind == "sql_audience" and others:
        raise _broken(definition, f"an audience is its ids alone; leave {', '.join(others)} out")
    if definition.kind != "sql_audience" and not others:
        what = "an entity" if definition.kind == "entity" else "a trait"
        raise _broken(definition, f"{what} needs a column besides {id_type}")
    return Columns(column, id_type, others)


def ids_of(rows: pa.Table, columns: Columns, definition: Definition) -> pa.ChunkedArray:
    """Return the ids of rows as texts. Raises Invalid where one is missing or empty, or they are no ids."""
    column = rows.column(columns.id)
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise _broken(definition, f"{columns.id_type} is of type {column.type}; cast it to text")
    empty: int = pc.sum(pc.equal(column, "")).as_py() or 0
    refuse_ids(column.null_count, empty, 0, columns, definition)
    return column


def texts_of(rows: pa.Table, definition: Definition) -> list[str]:
    """Return the JSON text of rows without their ids: an object, or what a trait of one column is worth.

    Raises:
        Invalid: a value is of a type that the contract does not know, or a row is too long.
    """
    if definition.kind == "sql_audience":
        return [_MEMBER] * rows.num_rows
    return _values(rows, definition, always_named=definition.kind == "entity")


def refuse_ids(missing: int, empty: int, repeated: int, columns: Columns, definition: Definition) -> None:
    """Refuse a result where so many rows have no id, or an empty one, or where so many have the same."""
    id_type = columns.id_type
    if missing:
        raise _broken(definition, f"{missing:,} rows have no {id_type}; leave them out")
    if empty:
        raise _broken(definition, f"{empty:,} rows have an empty {id_type}; leave them out")
    if definition.kind == "entity" and repeated > ENTITY_ROWS_MAX:
        raise _broken(
            definition, f"{repeated:,} rows are linked with one {id_type}; link at most {ENTITY_ROWS_MAX:,}"
        )
    if definition.kind != "entity" and repeated > 1:
        raise _broken(definition, f"{repeated:,} rows have one {id_type}; group by it")


def checked(result: pa.Table, definition: Definition) -> SqlValues:
    """Return what a query said. A trait of one column is its value, of several an object of them by name.

    Raises:
        Invalid: the result is not what the contract asks for; the error says how to change the query.
    """
    columns = columns_of(result.schema, result.num_rows, definition)
    id_type = columns.id_type
    ids: list[str] = ids_of(result, columns, definition).to_pylist()
    texts = texts_of(result.select(columns.others), definition)
    if definition.kind == "entity":
        return _rows(ids, texts, columns, definition)
    if len(set(ids)) != len(ids):
        raise _broken(definition, f"{len(ids) - len(set(ids)):,} rows repeat a {id_type}; group by it")
    order = sorted(range(len(ids)), key=ids.__getitem__)
    if definition.kind == "sql_trait":
        order = [row for row in order if texts[row] != NOTHING]
    return SqlValues(id_type, [ids[row] for row in order], [texts[row] for row in order])


def _rows(ids: list[str], texts: list[str], columns: Columns, definition: Definition) -> SqlValues:
    """Return the rows of an entity by id, in an order that does not depend on that of the result."""
    found: dict[str, list[str]] = {}
    for id, text in zip(ids, texts, strict=True):
        found.setdefault(id, []).append(text)
    refuse_ids(0, 0, max(map(len, found.values()), default=0), columns, definition)
    ordered = sorted(found)
    return SqlValues(columns.id_type, ordered, [f"[{','.join(sorted(found[id]))}]" for id in ordered])


def _id_column(names: list[str], definition: Definition) -> str:
    found = [name for name in names if name in ID_COLUMNS]
    if definition.id_type and LINK in names:
        found = [LINK]
    elif definition.id_type:
        found = [name for name in found if name == definition.id_type]
    if len(found) != 1 or len(set(names)) != len(names):
        asked = definition.id_type or f"one of {', '.join(ID_COLUMNS)}"
        raise _broken(
            definition,
            f"its columns are {', '.join(names)}; name each once, and have exactly one column of ids: {asked}",
        )
    column: str = found[0]
    type = definition.id_type if column == LINK else column
    if (type == "group_id") != (definition.target == "accounts") and type != "profile_id":
        raise _broken(definition, f"it is about {definition.target}, and {type} names none of them")
    return column


def _values(columns: pa.Table, definition: Definition, *, always_named: bool = False) -> list[str]:
    """Return the JSON text of each row."""
    for field in columns.schema:
        if _is_refused(field.type):
            raise _broken(
                definition,
                f"column {field.name} is of type {field.type}; give text, numbers, truth values, dates or timestamps",
            )
    # A timestamp without a zone is one in UTC, as all times here are.
    zoned = columns.cast(pa.schema([pa.field(field.name, _zoned(field.type)) for field in columns.schema]))
    plain = zoned.cast(pa.schema([pa.field(field.name, _plain(field.type)) for field in zoned.schema]))
    for field in zoned.schema:
        if pa.types.is_temporal(field.type) and _has_no_text(plain.column(field.name)):
            raise _broken(
                definition, f"column {field.name} has a time that no calendar has, such as infinity"
            )
    alone = plain.num_columns == 1 and not always_named
    rows = (
        plain.column(0).to_pylist() if alone else plain.to_pylist()
    )  # JSON has no NaN and no infinity: they are no value.
    texts = [_encode(row).decode() for row in rows]
    longest = max(texts, key=len, default="")
    if len(longest.encode()) > ROW_BYTES_MAX:
        raise _broken(
            definition, f"a row has {len(longest.encode()):,} bytes; give at most {ROW_BYTES_MAX:,}"
        )
    return texts


def _is_refused(type: pa.DataType) -> bool:
    return bool(
        pa.types.is_nested(type)
        or pa.types.is_binary(type)
        or pa.types.is_large_binary(type)
        or pa.types.is_time(type)
        or pa.types.is_duration(type)
        or pa.types.is_interval(type)
    )


def _zoned(type: pa.DataType) -> pa.DataType:
    return _TIME if pa.types.is_timestamp(type) else type


def _plain(type: pa.DataType) -> pa.DataType:
    """Return as what values of a type become JSON: decimals as numbers, times as ISO 8601 texts in UTC."""
    if pa.types.is_decimal(type):
        return pa.float64()
    if pa.types.is_temporal(type):
        return pa.string()
    return type


def _has_no_text(column: pa.ChunkedArray) -> bool:
    """Tell whether a time of a column is out of the years that ISO 8601 writes: infinity is one of those."""
    return not pc.all(pc.match_substring_regex(column, "^[0-9]{4}-"), min_count=0).as_py()


def _broken(definition: Definition, problem: str) -> Invalid:
    return Invalid(f"running the query of {definition.key}: {problem}; what it gave last stays")
