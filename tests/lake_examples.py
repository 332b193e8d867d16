"""Small invented tables, and a lake in a folder, for the tests of the lake."""

import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.tables import Column, TableDef
from profilelake.settings import StorageOptions

BUCKET_VARIABLE = "TEST_LAKE_BUCKET"
ENDPOINT_VARIABLE = "TEST_LAKE_ENDPOINT"
"""Where lakes lie that are not to lie in their folder: `s3://bucket`, and how it is reached."""

DAY = 86_400_000_000
START = 1_700_000_000_000_000

VISITS = TableDef(
    name="visits",
    columns=(
        Column("visit_id", pa.string(), "one visit", required=True),
        Column("email", pa.string(), "who", personal=True),
        Column("tags", pa.list_(pa.string()), "free words", personal=True),
        Column("amount", pa.int64(), "money"),
        Column("seen_at", pa.timestamp("us", "UTC"), "when", required=True),
    ),
    doc="Visits to a shop.",
    day="seen_at",
)

MEMBERS = TableDef(
    name="members",
    columns=(
        Column("member_id", pa.string(), "who", required=True),
        Column("slot", pa.int32(), "place", required=True),
        Column("points", pa.int64(), "how many"),
        Column("address", pa.string(), "where", personal=True),
    ),
    doc="Members of a club.",
    kind="current",
    key="member_id",
    slot="slot",
)


class Clock:
    """Nanoseconds that move only when told to.

    Begins after any real time: the library stamps a new table with the wall clock, and a snapshot
    is never older than its table.
    """

    def __init__(self) -> None:
        self.now = 4_000_000_000 * 1_000_000_000

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: int) -> None:
        self.now += seconds * 1_000_000_000


def open_lake(folder: Path, clock: Clock | None = None) -> Lake:
    """Open the lake of a folder, as a process of its own would.

    Its catalog is there; its warehouse too, unless the environment names a bucket for all of them.
    """
    bucket = os.environ.get(BUCKET_VARIABLE)
    place = f"{bucket}{folder}" if bucket else folder / "warehouse"
    storage = StorageOptions(endpoint=os.environ.get(ENDPOINT_VARIABLE, ""), plain_http="allowed")
    return Lake.open(f"sqlite:///{folder}/catalog.db", place, storage=storage, clock=clock or Clock())


def visits(first: int, count: int, *, at: int = START, step: int = 1_000) -> pa.Table:
    """Make `count` visits numbered from `first`; each amounts to 10."""
    return pa.table(
        {
            "visit_id": [f"v{first + i}" for i in range(count)],
            "email": [f"person{first + i}@example.org" for i in range(count)],
            "tags": [["red", f"tag{i}"] for i in range(count)],
            "amount": [10] * count,
            "seen_at": pa.array([at + i * step for i in range(count)], pa.timestamp("us", "UTC")),
        },
        schema=VISITS.schema(),
    )


def upto(sequence: int, epoch: str = "e1") -> Progress:
    """Make the progress of a writer that has come to `sequence`."""
    return Progress(
        epoch, sequence, {"00000000000000aa": (sequence * 100, sequence)}, {"duplicates": sequence}
    )


def slot(member: str) -> int:
    """Spread members over the slots, the same in every run."""
    return int(member[1:]) * 5_003 % 65_536


def members(points: dict[str, int]) -> pa.Table:
    """Make whole rows of members."""
    return pa.table(
        {
            "member_id": list(points),
            "slot": [slot(m) for m in points],
            "points": list(points.values()),
            "address": [f"{m} street" for m in points],
        },
        schema=MEMBERS.schema(),
    )


def changes(schema: pa.Schema, rows: Iterable[tuple[int, str, int | None]]) -> pa.Table:
    """Make changes from (seq, member, points); without points the member is deleted."""
    return pa.Table.from_pylist(
        [
            {
                "seq": seq,
                "op": "delete" if points is None else "upsert",
                "member_id": member,
                "slot": slot(member),
                "points": points,
                "address": None if points is None else f"{member} street",
            }
            for seq, member, points in rows
        ],
        schema=schema,
    )
