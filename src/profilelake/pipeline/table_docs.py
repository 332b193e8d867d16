"""The tables of the register as documentation: docs/tables.md is exactly what `markdown` returns."""

from collections.abc import Iterable, Iterator
from typing import Final

import pyarrow as pa

from profilelake.lake.catalog import namespace_of
from profilelake.lake.schema import BUCKET_WIDTH, BUCKETS
from profilelake.lake.tables import TableDef

_HEAD: Final = """# The tables

Made from the register in the code: `profilelake lake tables --schema --format markdown`. The same texts are
comments of tables and columns in Iceberg itself, so every engine shows them.

Tables of a workspace `W` lie in the Iceberg namespace `ws_W`, those of Profiles Sync in `ws_W_sync`. How to read
them without a server, and how base and log of a current table go together: [reading-the-lake.md](reading-the-lake.md).

- **append**: rows are only added.
- **current**: one row per key, as it is now. The table itself is the *base*, right as of its property
  `profilelake.merged-through`; `<name>_changes` beside it has what came since: `seq` and `op` (`upsert` or
  `delete`) before the columns listed here. SQL of ours shows both as one.
- **personal**: the column can hold personal data. It has no bounds in Iceberg's manifests, and erasure looks there.

Times are UTC with microseconds. Ids of 16 bytes are keyed hashes: without the workspace's secret they name nobody.
"""


def markdown(tables: Iterable[TableDef]) -> str:
    """Return the page that documents these tables."""
    return "\n".join([_HEAD, *(_section(table) for table in _in_order(tables))])


def columns(tables: Iterable[TableDef]) -> pa.Table:
    """Return a row for each column of these tables."""
    return pa.Table.from_pylist(
        [
            {
                "table": _shown(table),
                "kind": table.kind,
                "column": column.name,
                "type": _type(column.type),
                "required": column.required,
                "personal": column.personal,
                "doc": column.doc,
            }
            for table in _in_order(tables)
            for column in table.columns
        ]
    )


def _in_order(tables: Iterable[TableDef]) -> list[TableDef]:
    return sorted(tables, key=lambda table: (table.part, table.name))


def _shown(table: TableDef) -> str:
    return f"{namespace_of('W', table.part)}.{table.name}"


def _section(table: TableDef) -> str:
    lines = [
        f"## {table.name}\n",
        f"{table.doc[:1].upper()}{table.doc[1:].rstrip('.')}.\n",
        *_facts(table),
        "\n| column | type | | meaning |",
        "|---|---|---|---|",
        *(
            f"| `{column.name}` | {_type(column.type)} | {_marks(column.required, column.personal)} | {_cell(column.doc)} |"
            for column in table.columns
        ),
    ]
    return "\n".join(lines) + "\n"


def _facts(table: TableDef) -> Iterator[str]:
    yield f"- `{_shown(table)}`, {table.kind}" + (f", key `{table.key}`" if table.key else "")
    if table.day is not None:
        yield f"- partitioned by day of `{table.day}`"
    elif table.slot is not None and table.kind == "current":
        yield f"- partitioned by `truncate[{BUCKET_WIDTH}]({table.slot})`: {BUCKETS} buckets"
    else:
        yield "- not partitioned"
    order = table.sort or tuple(c for c in (table.slot, table.key) if c and table.kind == "current")
    if order:
        yield (
            "- sorted by "
            + ", ".join(f"`{name}`" for name in order)
            + (" within each file" if table.kind == "current" else " within each compacted file")
        )


def _marks(required: bool, personal: bool) -> str:
    return ", ".join(mark for mark, is_so in (("required", required), ("personal", personal)) if is_so)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


_NAMES: Final = {
    pa.string(): "text",
    pa.binary(): "bytes",
    pa.bool_(): "boolean",
    pa.int32(): "int32",
    pa.int64(): "int64",
    pa.float64(): "float64",
    pa.date32(): "date",
}


def _type(kind: pa.DataType) -> str:
    """Return a type in words that no engine calls something else."""
    if pa.types.is_timestamp(kind):
        return "time"
    if pa.types.is_fixed_size_binary(kind):
        return f"{kind.byte_width} bytes"
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "(" + ", ".join(f"{field.name} {_type(field.type)}" for field in kind) + ")"
    return _NAMES.get(kind) or str(kind)
