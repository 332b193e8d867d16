"""Base and log, folded in any order of steps, are what a dictionary would be: the steps and the check."""

import tempfile
from pathlib import Path

import duckdb
from hypothesis import strategies as st

from lake_examples import MEMBERS, changes, members, open_lake, upto
from profilelake.lake.current import CurrentTable
from profilelake.lake.pinned import PinnedTable
from profilelake.lake.reading import attach

KEYS = st.sampled_from([f"m{i}" for i in range(1, 8)])
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("change"), st.dictionaries(KEYS, st.one_of(st.none(), st.integers(0, 99)), min_size=1)
        ),
        st.tuples(st.just("change_twice"), st.dictionaries(KEYS, st.integers(0, 99), min_size=1)),
        st.tuples(st.just("merge"), st.none()),
        st.tuples(st.just("replace"), st.dictionaries(KEYS, st.integers(0, 99))),
        st.tuples(st.just("new_epoch"), st.dictionaries(KEYS, st.integers(0, 99))),
        st.tuples(st.just("reopen"), st.none()),
    ),
    min_size=4,
    max_size=9,
)


class Run:
    """A table and the dictionary it must equal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.epoch, self.sequence = 1, 0
        self.expected: dict[str, int] = {}
        self.reopen()

    def reopen(self) -> None:
        self.lake = open_lake(self.folder)
        self.table: CurrentTable = self.lake.current_table("w", MEMBERS)

    def step(self, name: str, rows: dict[str, int | None] | None) -> None:
        rows = rows or {}
        if name in ("change", "change_twice"):
            self.sequence += 1
            self.expected = {k: v for k, v in {**self.expected, **rows}.items() if v is not None}
            made = changes(
                self.table.log.definition.schema(), [(self.sequence, k, v) for k, v in rows.items()]
            )
            progress = upto(self.sequence, f"e{self.epoch}")
            assert self.table.append_changes(made, progress)
            if name == "change_twice":
                assert not self.table.append_changes(made, progress)
        elif name == "merge":
            self.table.merge()
        elif name == "reopen":
            self.reopen()
        else:
            if name == "new_epoch":
                self.epoch, self.sequence = self.epoch + 1, 0
            self.sequence += 1
            self.expected = {k: v for k, v in rows.items() if v is not None}
            assert self.table.replace(members(self.expected), upto(self.sequence, f"e{self.epoch}"))

    def check(self) -> None:
        connection = duckdb.connect()
        attach(connection, self.lake, "w")
        seen = connection.sql("SELECT member_id, points FROM members").fetchall()
        assert sorted(seen) == sorted(self.expected.items())
        pinned = PinnedTable.of(self.lake, "w", MEMBERS.name)
        shares = [
            connection.sql(pinned.shape.select(share, self.lake.storage.place)).select("member_id", "points")
            for share in pinned.shares(1)
        ]
        assert sorted(row for share in shares for row in share.fetchall()) == sorted(seen)
        connection.close()


def fold(steps: list[tuple[str, dict[str, int | None] | None]]) -> None:
    """Carry out the steps and check after each of them."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        for name, rows in steps:
            run.step(name, rows)
            run.check()
        run.table.merge()
        run.reopen()
        run.check()
        scanned = run.table.scan().select(["member_id", "points"]).to_pylist()
        assert {r["member_id"]: r["points"] for r in scanned} == run.expected
