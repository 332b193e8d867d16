"""Whenever failed events come, go, and the machine stops: there and expired are all that ever failed."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from lake_examples import Clock, open_lake
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.retention import Expired, expire_days
from profilelake.landing.tables import FAILED_EVENTS

DAY: Final = 86_400_000_000
WORKSPACE: Final = "w"
steps = st.lists(
    st.one_of(
        st.tuples(st.just("fail"), st.integers(0, 9)),
        st.tuples(st.just("expire"), st.integers(0, 10)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    min_size=1,
    max_size=12,
)


def failing(day: int, number: int) -> pa.Table:
    schema = FAILED_EVENTS.schema()
    row: dict[str, object] = dict.fromkeys(schema.names)
    at = day * DAY + number
    row |= {
        "position": at.to_bytes(32, "big"),
        "received_at": at,
        "reason": "r",
        "source_id": "s",
        "region": "l",
    }
    return pa.Table.from_pylist([row], schema=schema)


@given(steps, st.integers(1, 3))
@settings(max_examples=20)
def test_there_and_expired_are_all_that_failed(steps: list[tuple[str, int]], files_max: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        opened: Callable[[], Lake] = lambda: open_lake(Path(directory), Clock())  # noqa: E731
        lake = opened()
        days: list[int] = []
        before = 0
        for number, (what, day) in enumerate(steps):
            table = lake.table(WORKSPACE, FAILED_EVENTS)
            if what == "fail":
                days.append(day)
                table.append(failing(day, number), Progress("1", number, {}, {"failed": len(days)}))
            elif what == "expire":
                while expire_days(table, day, files_max):
                    pass
                before = max(before, day)
                days_left = [one for one in days if one >= day]
                assert not [f for f in table.files() if f.partition is not None and f.partition < day]
                assert sum(f.rows for f in table.files()) <= len(days_left)
            else:
                lake.close()
                lake = opened()
                table = lake.table(WORKSPACE, FAILED_EVENTS)
            progress = table.progress()
            rows = sum(f.rows for f in table.files())
            told = 0 if progress is None else progress.totals.get("failed", 0)
            assert rows + Expired.of(table.properties()).rows == told == len(days)
        lake.close()
