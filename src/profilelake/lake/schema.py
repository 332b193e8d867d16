"""What a declared table is in Iceberg: schema, partitions, properties, and how it may grow."""

from collections.abc import Iterator
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.io.pyarrow import _pyarrow_to_schema_without_ids
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionField, PartitionSpec
from pyiceberg.schema import Schema, assign_fresh_schema_ids
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.transforms import DayTransform, TruncateTransform
from pyiceberg.typedef import Record
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FixedType,
    FloatType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
)

from profilelake.errors import Internal, Invalid
from profilelake.lake.progress import PREFIX
from profilelake.lake.tables import Column, TableDef

KIND: Final = PREFIX + "kind"
KEY: Final = PREFIX + "key"
SLOT: Final = PREFIX + "slot"

SLOTS: Final = 1 << 16
"""Slots are the first 16 bits of a 128-bit id."""
BUCKETS: Final = 16
BUCKET_WIDTH: Final = SLOTS // BUCKETS

FILE_BYTES_TARGET: Final = 128 << 20
"""Wanted size of a Parquet file of a large table."""
ARROW_PER_PARQUET: Final = 7
"""Arrow bytes per Parquet byte of events, measured; writers can only count the former."""
METADATA_FILES_MAX: Final = 20
"""How many old metadata files are kept, so that a reader that has just looked one up finds it."""

_DAY_US: Final = 86_400_000_000
_DAYS_LIFTED: Final = 1_000_000


def changes_definition(definition: TableDef) -> TableDef:
    """Return the log table of a current-state table: `seq` and `op` before its own columns.

    Columns are never required there: a deletion carries the key and the slot, and no more.
    """
    return TableDef(
        name=f"{definition.name}_changes",
        columns=(
            Column("seq", pa.int64(), "place of the change in the order of changes", required=True),
            Column("op", pa.string(), "upsert or delete", required=True),
            *(
                Column(
                    c.name,
                    c.type,
                    c.doc,
                    c.personal,
                    c.required and c.name in (definition.key, definition.slot),
                )
                for c in definition.columns
            ),
        ),
        doc=f"Changes of {definition.name} that its base may not have yet: rows with seq above "
        f"the base's property {PREFIX}merged-through.",
        part=definition.part,
    )


def iceberg_schema(definition: TableDef) -> Schema:
    """Return the Iceberg schema of a definition, with ids from 1 in column order."""
    arrow = pa.schema(
        [
            pa.field(c.name, c.type, nullable=not c.required, metadata={"doc": c.doc})
            for c in definition.columns
        ]
    )
    return assign_fresh_schema_ids(_pyarrow_to_schema_without_ids(arrow))


def partition_spec(definition: TableDef, schema: Schema) -> PartitionSpec:
    """Return how the files of a table are divided: by day, by bucket of slots, or not at all.

    A bucket is `truncate[4096](slot)`, not a column of its own: a filter on `slot` then prunes files
    in every engine, nobody has to know `slot >> 12`, and halving the width later splits each bucket
    into two without a row changing its place in the order.
    """
    if definition.day is not None:
        source = schema.find_field(definition.day).field_id
        return PartitionSpec(PartitionField(source, 1000, DayTransform(), f"{definition.day}_day"))
    if definition.slot is not None and definition.kind == "current":
        source = schema.find_field(definition.slot).field_id
        return PartitionSpec(
            PartitionField(source, 1000, TruncateTransform(BUCKET_WIDTH), f"{definition.slot}_bucket")
        )
    return UNPARTITIONED_PARTITION_SPEC


def table_properties(definition: TableDef, schema: Schema, kind: str) -> dict[str, str]:
    """Return the properties a table is made with.

    Retries are ours, not the library's: it would repeat an append without asking whether its facts
    have arrived. Isolation is for other engines that write the table.
    """
    properties = {
        "format-version": "2",
        "write.parquet.compression-codec": "zstd",
        "write.target-file-size-bytes": str(ARROW_PER_PARQUET * FILE_BYTES_TARGET),
        "write.metadata.delete-after-commit.enabled": "true",
        "write.metadata.previous-versions-max": str(METADATA_FILES_MAX),
        "commit.retry.num-retries": "0",
        "write.delete.isolation-level": "snapshot",
        "comment": definition.doc,
        KIND: kind,
    }
    if definition.key is not None:
        properties[KEY] = definition.key
    if definition.slot is not None:
        properties[SLOT] = definition.slot
    return properties | metrics_properties(definition, schema)


def metrics_properties(definition: TableDef, schema: Schema) -> dict[str, str]:
    """Return the properties that keep values of personal columns out of Iceberg's manifests.

    A manifest of the current snapshot may still describe files that an erasure has removed. The
    statistics inside a Parquet footer stay on: readers skip row groups by them, and they vanish
    with the file they are in.
    """
    personal = {c.name for c in definition.columns if c.personal}
    return {
        f"write.metadata.metrics.column.{name}": "none"
        for name in schema.column_names
        if name.partition(".")[0] in personal
    }


def personal_columns(table: Table) -> frozenset[str]:
    """Return the columns of a table that can hold personal data, as its own properties say.

    A table that was not made from a definition says nothing: all of its columns can.
    """
    names = (field.name for field in table.schema().fields)
    if KIND not in table.properties:
        return frozenset(names)
    return frozenset(
        name for name in names if table.properties.get(f"write.metadata.metrics.column.{name}") == "none"
    )


def grow(table: Table, definition: TableDef) -> None:
    """Add the columns the definition has gained; a no-op when table and definition agree.

    Raises:
        Invalid: they differ in a way that cannot be put right without rewriting data.
    """
    held, wanted = table.schema(), iceberg_schema(definition)
    name = ".".join(table.name())
    held_types = {f.name: f.field_type for f in held.fields}
    wanted_names = {f.name for f in wanted.fields}
    if missing := [n for n in held_types if n not in wanted_names]:
        raise Invalid(
            f"opening table {name}: the lake has columns {missing} that its definition has not; "
            "use the program version that wrote them, or declare them again"
        )
    added = []
    for column, column_field in zip(definition.columns, wanted.fields, strict=True):
        if column.name not in held_types:
            if column.required:
                raise Invalid(
                    f"opening table {name}: new column {column.name!r} is required, and rows without it exist; "
                    "declare it optional"
                )
            added.append((column, column_field))
        elif _shape(held_types[column.name]) != _shape(column_field.field_type):
            raise Invalid(
                f"opening table {name}: column {column.name!r} is {held_types[column.name]} in the lake "
                f"and {column_field.field_type} in its definition; add a column of another name instead"
            )
    if partition_spec(definition, held).fields != table.spec().fields:
        raise Invalid(
            f"opening table {name}: it is partitioned by {table.spec()}, not as its definition says; rebuild it"
        )
    metrics = metrics_properties(definition, wanted)
    changed = {k: v for k, v in metrics.items() if table.properties.get(k) != v}
    if not added and not changed:
        return
    with table.transaction() as transaction:
        if added:
            with transaction.update_schema() as update:
                for column, column_field in added:
                    update.add_column(column.name, column_field.field_type, doc=column.doc)
        if changed:
            transaction.set_properties(changed)


def reshape(table: Table, definition: TableDef) -> None:
    """Give a table the columns of its definition and no others; those of another type begin anew."""
    held, wanted = table.schema(), iceberg_schema(definition)
    wanted_types = {f.name: f.field_type for f in wanted.fields}
    kept = {
        f.name for f in held.fields if _shape(wanted_types.get(f.name, f.field_type)) == _shape(f.field_type)
    }
    kept &= wanted_types.keys()
    gone = [f.name for f in held.fields if f.name not in kept]
    added = [column for column in definition.columns if column.name not in kept]
    metrics = metrics_properties(definition, wanted)
    changed = {k: v for k, v in metrics.items() if table.properties.get(k) != v}
    if not gone and not added and not changed:
        return
    with table.transaction() as transaction:
        if gone:
            with transaction.update_schema(allow_incompatible_changes=True) as update:
                for name in gone:
                    update.delete_column(name)
        if added:
            with transaction.update_schema() as update:
                for column in added:
                    update.add_column(column.name, wanted_types[column.name], doc=column.doc)
        if changed:
            transaction.set_properties(changed)


def _shape(kind: IcebergType) -> str:
    """Return a type without its field ids, which differ between tables that grew differently."""
    if isinstance(kind, ListType):
        return f"list<{_shape(kind.element_type)}>"
    if isinstance(kind, MapType):
        return f"map<{_shape(kind.key_type)},{_shape(kind.value_type)}>"
    if isinstance(kind, StructType):
        return "struct<" + ",".join(f"{f.name}:{_shape(f.field_type)}" for f in kind.fields) + ">"
    return str(kind)


def file_schema(metadata: TableMetadata, rows: pa.Schema) -> pa.Schema:
    """Return the Arrow schema of data files: the columns of `rows` with Iceberg's field ids."""
    fields = []
    for field in metadata.schema().fields:
        of_rows = rows.field(field.name)
        fields.append(
            pa.field(
                field.name,
                _with_ids(of_rows.type, field.field_type),
                nullable=not field.required,
                metadata={b"PARQUET:field_id": str(field.field_id).encode()},
            )
        )
    return pa.schema(fields)


def _with_ids(arrow: pa.DataType, iceberg: IcebergType) -> pa.DataType:
    def inner(name: str, kind: pa.DataType, of: IcebergType, field_id: int, required: bool) -> pa.Field:
        metadata = {b"PARQUET:field_id": str(field_id).encode()}
        return pa.field(name, _with_ids(kind, of), nullable=not required, metadata=metadata)

    if isinstance(iceberg, ListType):
        return pa.list_(
            inner(
                "element",
                arrow.value_type,
                iceberg.element_type,
                iceberg.element_id,
                iceberg.element_required,
            )
        )
    if isinstance(iceberg, MapType):
        return pa.map_(
            inner("key", arrow.key_type, iceberg.key_type, iceberg.key_id, True),
            inner("value", arrow.item_type, iceberg.value_type, iceberg.value_id, iceberg.value_required),
        )
    if isinstance(iceberg, StructType):
        return pa.struct(
            [
                inner(f.name, arrow.field(f.name).type, f.field_type, f.field_id, f.required)
                for f in iceberg.fields
            ]
        )
    return arrow


def checked(definition: TableDef, rows: pa.Table) -> pa.Table:
    """Return `rows` with the columns in the order of the definition.

    Raises:
        Internal: a column is missing, unknown, of another type, or null where it must not be.
    """
    expected = definition.schema()
    if sorted(rows.column_names) != sorted(expected.names):
        odd = sorted(set(rows.column_names) ^ set(expected.names)) or "a name twice"
        raise Internal(f"writing to {definition.name}: columns differ from the definition in {odd}")
    rows = rows.select(expected.names)
    for field in expected:
        column = rows.column(field.name)
        if column.type != field.type:
            raise Internal(f"writing to {definition.name}: {field.name} is {column.type}, not {field.type}")
        if not field.nullable and column.null_count:
            raise Internal(
                f"writing to {definition.name}: {column.null_count} nulls in required {field.name}"
            )
    if definition.slot is not None and definition.kind == "current" and rows.num_rows:
        bounds = pc.min_max(rows.column(definition.slot)).as_py()
        if bounds["min"] < 0 or bounds["max"] >= SLOTS:
            raise Internal(f"writing to {definition.name}: slots {bounds} are not below {SLOTS}")
    return rows


def bucket_of(slots: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the bucket of each slot: the slot with its low bits cleared."""
    return pc.bit_wise_and(slots, pa.scalar(-BUCKET_WIDTH, pa.int32()))


def partitions(definition: TableDef, rows: pa.Table) -> Iterator[tuple[Record, pa.Table]]:
    """Yield the rows of each partition with its value; rows of one partition are passed on uncopied."""
    if not rows.num_rows:
        return
    if definition.day is not None:
        # Division truncates, so days before 1970 are lifted above zero first. A null day is a
        # partition of its own.
        micros = pc.cast(rows.column(definition.day), pa.int64())
        lifted = pc.add(micros, _DAYS_LIFTED * _DAY_US)
        values = pc.cast(pc.subtract(pc.divide(lifted, _DAY_US), _DAYS_LIFTED), pa.int32())
    elif definition.slot is not None and definition.kind == "current":
        values = bucket_of(rows.column(definition.slot))
    else:
        yield Record(), rows
        return
    distinct = pc.unique(values)
    if len(distinct) == 1:
        yield Record(distinct[0].as_py()), rows
        return
    for value in distinct:
        chosen = pc.equal(values, value) if value.is_valid else pc.is_null(values)
        yield Record(value.as_py()), rows.filter(chosen)


_SQL_NAMES: Final[dict[type[IcebergType], str]] = {
    BinaryType: "BLOB",
    BooleanType: "BOOLEAN",
    DateType: "DATE",
    DoubleType: "DOUBLE",
    FixedType: "BLOB",
    FloatType: "FLOAT",
    IntegerType: "INTEGER",
    LongType: "BIGINT",
    StringType: "VARCHAR",
    TimestampType: "TIMESTAMP",
    TimestamptzType: "TIMESTAMP WITH TIME ZONE",
}


def sql_type(kind: IcebergType) -> str:
    """Return the DuckDB type a column of this Iceberg type is read as."""
    if isinstance(kind, DecimalType):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if isinstance(kind, ListType):
        return f"{sql_type(kind.element_type)}[]"
    if isinstance(kind, MapType):
        return f"MAP({sql_type(kind.key_type)}, {sql_type(kind.value_type)})"
    if isinstance(kind, StructType):
        inner = ", ".join(
            '"{}" {}'.format(f.name.replace('"', '""'), sql_type(f.field_type)) for f in kind.fields
        )
        return f"STRUCT({inner})"
    name = _SQL_NAMES.get(type(kind))
    if name is None:
        raise Invalid(
            f"reading a column of type {kind}: no such type is declared by us; read the table directly"
        )
    return name
