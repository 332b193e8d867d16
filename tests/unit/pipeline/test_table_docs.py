"""The page about the tables is the register, and the page about the lake names all there is."""

import re
from pathlib import Path

import pyarrow as pa
from prometheus_client import CollectorRegistry

from profilelake.lake.tables import Column, TableDef
from profilelake.pipeline.lake_metrics import LakeMetrics
from profilelake.pipeline.register import TABLES
from profilelake.pipeline.table_docs import columns, markdown
from profilelake.settings import LakeSettings, StorageOptions

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_is_current() -> None:
    assert (DOCS / "tables.md").read_text() == markdown(TABLES), (
        "run: profilelake lake tables --schema --format markdown > docs/tables.md"
    )


def test_every_column_of_every_table_is_there() -> None:
    rows = columns(TABLES).to_pylist()
    assert len(rows) == sum(len(table.columns) for table in TABLES)
    assert all(row["doc"] and "\n" not in row["doc"] for row in rows)
    assert {row["personal"] for row in rows if row["column"] == "traits"} == {True}


def test_what_a_table_is_made_of_is_told() -> None:
    kinds = pa.list_(pa.struct([("type", pa.string()), ("id", pa.binary(16))]))
    table = TableDef(
        "odd",
        (
            Column("id", pa.string(), "key", required=True),
            Column("slot", pa.int32(), "place", required=True),
            Column("parts", kinds, "a | b", personal=True),
        ),
        "Odd things.",
        kind="current",
        key="id",
        slot="slot",
    )
    page = markdown([table])
    assert "## odd\n\nOdd things.\n" in page
    assert "- `ws_W.odd`, current, key `id`\n- partitioned by `truncate[4096](slot)`: 16 buckets\n" in page
    assert "- sorted by `slot`, `id` within each file\n" in page
    assert "| `parts` | list of (type text, id 16 bytes) | personal | a \\| b |" in page


def test_settings_and_metrics_of_the_lake_are_documented() -> None:
    page = (DOCS / "lake.md").read_text()
    registry = CollectorRegistry()
    LakeMetrics(registry)
    names = {metric.name for metric in registry.collect()}
    assert names
    for name in names:
        assert re.search(rf"`{name}(_total)?[`{{]", page), name
    for setting in LakeSettings.__dataclass_fields__:
        assert f"`lake.{setting}`" in page
    page = (DOCS / "object-storage.md").read_text()
    for setting in StorageOptions.__dataclass_fields__:
        assert f"`storage.{setting}`" in page
