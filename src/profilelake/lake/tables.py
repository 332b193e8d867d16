"""The words tables are declared in; each stage declares its own in `<stage>/tables.py`."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import pyarrow as pa

Kind: TypeAlias = Literal["append", "current"]
Part: TypeAlias = Literal["", "sync", "warehouse", "linked"]
"""Which namespace of a workspace W: `ws_W`, `ws_W_sync` with the tables of Profiles Sync, `ws_W_warehouse`, or
`ws_W_linked` with tables that its owners put there, for SQL and entities to read."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `personal` columns carry no Iceberg metrics: bounds would outlive an erasure."""

    name: str
    type: pa.DataType
    doc: str
    personal: bool = False
    required: bool = False


@dataclass(frozen=True, slots=True)
class TableDef:
    """One table of a workspace.

    `append`: rows are only added. `current`: `key` names the one column that identifies a row;
    the table is a base plus an append-only log `<name>_changes` (the same columns before them
    `seq` int64 and `op`, "upsert" or "delete"). `day` names the timestamp column the table is
    partitioned by day of; `slot` the int32 column it is partitioned by bucket of (`current` only).
    `part` is the namespace the table lies in.
    """

    name: str
    columns: tuple[Column, ...]
    doc: str
    kind: Kind = "append"
    key: str | None = None
    day: str | None = None
    slot: str | None = None
    sort: tuple[str, ...] = ()
    part: Part = ""

    def schema(self) -> pa.Schema:
        """Return the Arrow schema rows of this table must have."""
        return pa.schema([pa.field(c.name, c.type, nullable=not c.required) for c in self.columns])

    def shape(self, rows: pa.Table) -> pa.Table:
        """Return those columns of `rows` that the table has, in its order, with its types."""
        schema = self.schema()
        return pa.table([rows.column(name) for name in schema.names], schema=schema)
