"""Maintenance of tables killed at its failpoints, each time in a process of its own, then brought to its end.

    lake_child.py ROOT PLACE…

For each place the run is killed when it is reached for the 1st, 2nd, 4th … time, until one lives to its
end; another process goes on from what each killed run left. Prints one line of JSON per run. Processes are
forked: starting one takes longer than its work.
"""

import os
import sys
from pathlib import Path
from typing import Any

import duckdb
from pipeline_child import arm, forked, tell

from lake_examples import MEMBERS, VISITS, Clock, changes, open_lake, upto, visits
from profilelake.lake.checking import check_tables
from profilelake.pipeline import upkeep
from profilelake.pipeline.upkeep import Record, Upkeep

HOUR = 3_600
START = 4_000_000_000


class Home:
    """A lake in a folder with one table of each kind, and what tends it."""

    def __init__(self, folder: Path, now: int) -> None:
        self.clock = Clock()
        self.clock.now = now * 10**9
        self.folder = folder
        self.lake = open_lake(folder, self.clock)
        self.visits = self.lake.table("w", VISITS)
        self.members = self.lake.current_table("w", MEMBERS)
        upkeep.TABLES = (VISITS, MEMBERS)  # type: ignore[misc]
        record = Record(folder / "maintenance.jsonl", lambda: self.clock.now // 1_000)
        self.upkeep = Upkeep("w", self.lake, lambda: self.clock.now // 1_000, record)

    def fill(self) -> None:
        """Commit events and changes, some of which are merged."""
        for number in range(1, 7):
            self.visits.append(visits(number, 2, step=1), upto(number))
            made = [(number, "m1", number), (number, "m40", None if number % 2 else number)]
            self.members.append_changes(changes(self.members.log.definition.schema(), made), upto(number))
            if number == 3:
                self.members.merge()

    def tend(self) -> None:
        """Do everything that maintenance does, until nothing is left to do."""
        for table in self.upkeep.tables():
            while self.upkeep.compact(table, everything=True) is not None:
                pass
        while self.members.merge():
            pass
        self.clock.now += 2 * HOUR * 10**9
        for table in self.upkeep.tables():
            self.upkeep.expire(table, HOUR)
        self._age()
        for table in self.upkeep.tables():
            self.upkeep.sweep(table, HOUR, 0)

    def _age(self) -> None:
        for path in self.folder.rglob("*"):
            if path.is_file():
                os.utime(path, (START - HOUR,) * 2)

    def outcome(self) -> dict[str, Any]:
        """Return everything that must not depend on where a process died."""
        connection = duckdb.connect()
        problems = [str(problem) for problem in check_tables(self.lake, "w", connection, quick=False)]
        connection.close()
        return {
            "problems": problems,
            "visits": sorted(self.visits.scan(["visit_id"]).column(0).to_pylist()),
            "members": sorted((row["member_id"], row["points"]) for row in self.members.scan().to_pylist()),
            "files": [len(table.files()) for table in self.upkeep.tables()],
            "unreachable": [f.location for table in self.upkeep.tables() for f in table.unreachable()],
            "sequence": [table.progress() == upto(6) for table in self.upkeep.tables()],
        }


def run(folder: Path, place: str, count: int) -> None:
    home = Home(folder, START)
    home.fill()
    if place:
        arm(place, count)
    home.tend()


def go_on(folder: Path) -> dict[str, Any]:
    home = Home(folder, START + 10 * HOUR)
    home.tend()
    home.tend()  # What the first look made unreachable, the second removes.
    return Home(folder, START + 20 * HOUR).outcome()


def main() -> None:
    root = Path(sys.argv[1])
    for place in ("", *sys.argv[2:]):
        count, killed = 1, True
        while killed and (place or count == 1):
            folder = root / f"{place}-{count}"
            folder.mkdir()
            killed, said = forked(lambda folder=folder, place=place, count=count: run(folder, place, count))
            _, found = forked(lambda folder=folder: go_on(folder))
            tell({"place": place, "count": count, "killed": killed, "said": said, "found": found})
            count *= 2


if __name__ == "__main__":
    main()
