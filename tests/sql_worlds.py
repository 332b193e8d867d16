"""A desk where queries of definitions run: each gives what the test says."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_driver import KEY, SECOND, START, WORKSPACE, Desk, LogBuilder, Message
from profilelake.pipeline.sql_runs import SqlRun, SqlRuns
from profilelake.state.store import Db

LOG = "00000000000000aa"


class World:
    """A desk, and what the query of each definition gives: a result, or the error it ends with."""

    def __init__(self, directory: Path) -> None:
        self.desk = Desk(directory)
        self.log = LogBuilder(LOG)
        self.second = 0
        self.results: dict[str, pa.Table | Exception] = {}
        self.runner = SqlRuns(
            self.desk.state,
            WORKSPACE,
            self._ask,
            directory / "results",
            directory / "requests",
            KEY,
            self.desk.setup.rules,
            lambda: START + self.second * SECOND,
        )

    def _ask(self, query: str, path: Path, _stopped: object) -> None:
        result = self.results[query]
        if isinstance(result, Exception):
            raise result
        pq.write_table(result, path)

    def _next(self) -> int:
        self.second += 1
        return START + self.second * SECOND

    def define(self, key: str, query: str, **told: Any) -> None:
        self.desk.apply([self.log.define(self._next(), key, query, **told)])
        self.desk.settle(self._next())

    def feed(self, *messages: Message) -> None:
        self.desk.apply([self.log.record(self._next(), messages)])

    def run(self, **results: dict[str, list[Any]] | Exception) -> dict[str, SqlRun]:
        """Run what is due with these results, by query, and let others see what came of it."""
        self.results |= {
            query: given if isinstance(given, Exception) else pa.table(given)
            for query, given in results.items()
        }
        found = {held.definition.key: self.runner.run_one(held) for held in list(self.runner.due())}
        self.desk.settle(self._next())
        return found

    def later(self, seconds: int) -> None:
        self.second += seconds

    def told(self) -> list[tuple[str, str | None, str | None]]:
        return [(change.definition, change.previous, change.value) for change in self.desk.changes()]

    def entity_rows(self) -> int:
        with self.desk.state.read(WORKSPACE) as tx:
            return tx.count(WORKSPACE, Db.ENTITY)

    def values(self, key: str) -> list[str]:
        return sorted(value for (of, _), value in self.desk.values().items() if of == key)
