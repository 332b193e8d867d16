"""Identity in bulk: files it refuses, sets put in order, and the mapping in an Iceberg table."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lake_examples import open_lake, upto
from profilelake.errors import Invalid
from profilelake.identity import problem
from profilelake.identity.bulk import BulkMapping, Totals, resolve_by_component, resolve_files
from profilelake.identity.set_files import sort_sets
from profilelake.identity.tables import IDENTITY_MAP
from profilelake.semantics.identifiers import KEY_BYTES, Identifier, ident_id
from profilelake.semantics.identity import Sighting
from profilelake.semantics.rules import segment_defaults

KEY = bytes(range(KEY_BYTES))
RULES = segment_defaults()
SETS = pa.list_(pa.struct([("type", pa.string()), ("value", pa.string())]))
SCHEMA = pa.schema([("identifiers", SETS), ("position", pa.int64())])

HISTORY: list[tuple[int, list[tuple[str, str]]]] = [
    (1, [("anonymous_id", "a1")]),
    (2, [("anonymous_id", "a1"), ("user_id", "u1")]),
    (3, [("user_id", "u2"), ("anonymous_id", "a1")]),
    (4, [("user_id", "null"), ("anonymous_id", "a2")]),
    (4, []),
    (5, [("unheard_of", "x"), ("email", "e1"), ("user_id", "u2")]),
]


def file_of(history: list[tuple[int, list[tuple[str, str]]]], path: Path) -> Path:
    rows = [
        {"identifiers": [{"type": type, "value": value} for type, value in one], "position": position}
        for position, one in history
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, row_group_size=2)
    return path


def expected() -> dict[bytes, str]:
    sightings = [
        Sighting(frozenset(Identifier(*pair) for pair in one), number.to_bytes(8, "big"), number)
        for number, (_, one) in enumerate(HISTORY)
    ]
    graph = problem.resolve(sightings, RULES, key=KEY)
    return {ident_id(KEY, "users", one): owner for one, owner in graph.owners.items() if owner}


def owners(found: BulkMapping) -> dict[bytes, str]:
    return {row["ident_id"]: row["profile_id"] for part in found.parts() for row in part.to_pylist()}


def test_a_file_becomes_a_mapping_and_a_table(tmp_path: Path) -> None:
    found = resolve_files([file_of(HISTORY, tmp_path / "sets.parquet")], RULES, KEY)
    assert owners(found) == expected()
    assert found.totals == Totals(
        sets=6, members=8, identifiers=6, owned=5, founded=3, profiles=3, merges=0, refusals=1
    )
    table = open_lake(tmp_path).current_table("w", IDENTITY_MAP)
    assert table.replace_in_parts(found.parts(rows_max=1), upto(1))
    assert {row["ident_id"]: row["profile_id"] for row in table.scan().to_pylist()} == expected()


def test_account_identifiers_are_a_world_of_their_own(tmp_path: Path) -> None:
    path = file_of([(1, [("group_id", "g1")]), (2, [("user_id", "u1")])], tmp_path / "sets.parquet")
    found = resolve_files([path], RULES, KEY, "accounts")
    [row] = [row for part in found.parts() for row in part.to_pylist()]
    assert row["ident_id"] == ident_id(KEY, "accounts", Identifier("group_id", "g1"))
    assert row["collection"] == "accounts"
    assert row["profile_id"].startswith("acc_")


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_sets_out_of_order_are_refused_within_and_across_files_and_can_be_sorted(
    tmp_path: Path, cut: int
) -> None:
    first = file_of(HISTORY[cut:], tmp_path / "a.parquet")
    second = file_of(HISTORY[:cut], tmp_path / "b.parquet")
    with pytest.raises(Invalid, match=r"b\.parquet: positions do not ascend; sort them"):
        resolve_files([first, second], RULES, KEY)
    joined = file_of(HISTORY[cut:] + HISTORY[:cut], tmp_path / "c.parquet")
    with pytest.raises(Invalid, match=r"c\.parquet: positions do not ascend"):
        resolve_files([joined], RULES, KEY)
    sort_sets([first, second], tmp_path / "sorted.parquet", tmp_path / "spill")
    assert owners(resolve_files([tmp_path / "sorted.parquet"], RULES, KEY)) == expected()


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("position", [1, None], "positions do not ascend"),
        ("identifiers", [[], None], "identifiers are null"),
        ("identifiers", [[], [{"type": "email", "value": None}]], "a type or value is null"),
        ("identifiers", [[], [{"type": None, "value": "e1"}]], "a type or value is null"),
    ],
)
def test_nulls_are_refused(tmp_path: Path, column: str, values: list[Any], message: str) -> None:
    rows = {"identifiers": [[], []], "position": [1, 2]} | {column: values}
    pq.write_table(pa.table(rows, schema=SCHEMA), tmp_path / "sets.parquet")
    with pytest.raises(Invalid, match=message):
        resolve_files([tmp_path / "sets.parquet"], RULES, KEY)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"position": [1]}), tmp_path / "sets.parquet")
    with pytest.raises(Invalid, match=r"columns \['identifiers'\] are missing"):
        resolve_files([tmp_path / "sets.parquet"], RULES, KEY)


def test_nothing_gives_nothing(tmp_path: Path) -> None:
    found = resolve_files([file_of([], tmp_path / "sets.parquet")], RULES, KEY)
    assert owners(found) == {}
    assert found.totals == Totals()


@pytest.mark.parametrize("parts", [0, 256])
def test_a_number_of_parts_that_no_byte_can_say_is_refused(tmp_path: Path, parts: int) -> None:
    found = resolve_by_component([], RULES, KEY, parts=parts, identifiers_max=1)
    with pytest.raises(Invalid, match="give 1 to 255"):
        next(found)
