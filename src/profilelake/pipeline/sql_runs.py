"""Runs SQL traits and audiences when they are due: ask, check, apply, and note what came of it.

A loop of the lake process. The query itself runs elsewhere, in a worker that can do nothing but compute.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from profilelake.audiences import definitions_now
from profilelake.audiences.life import COMPUTING, FAILED, LIVE, SQL
from profilelake.audiences.sql_contract import checked, every_seconds
from profilelake.errors import Conflict, Invalid, ProfilelakeError, Unavailable
from profilelake.identity.standing import rules_in_force
from profilelake.ops.clock import Clock
from profilelake.pipeline.sql_results import apply_result, forget_rows
from profilelake.semantics.definitions import Held
from profilelake.semantics.rules import IdentityRules
from profilelake.state.store import State, Tx

LOOK_SECONDS: Final = 1.0
AGAIN_SECONDS: Final = 300.0
"""How soon a run that could not be made is tried again, where the definition runs less often."""
FAILURE_CHARACTERS_MAX: Final = 1_000
_RUNS: Final = "sql_runs"
_MICROS: Final = 1_000_000
_RUNNING: Final = frozenset({COMPUTING, LIVE, FAILED})
"""Where a definition stands that runs; others are withdrawn."""

Ask: TypeAlias = Callable[[str, Path, Callable[[], bool]], None]
"""Writes the result of a query as a Parquet file; ends early, with Unavailable, where the last one says so.

Raises Invalid for a query that cannot give a result, Unavailable where trying again may help.
"""

_log = logging.getLogger(__name__)


class SqlRun(msgspec.Struct, frozen=True):
    """The last run of a definition: of which version, when (microseconds), and what came of it.

    `failure` is empty where it went well. `unknown` counts ids that nobody has, `changed` profiles that are
    worth something else than before.
    """

    version: int
    started_at: int
    finished_at: int
    rows: int = 0
    unknown: int = 0
    changed: int = 0
    failure: str = ""
    again: bool = False
    """Whether it is tried again soon."""


def runs(tx: Tx, workspace: str) -> dict[str, SqlRun]:
    """Return the last run of each definition that ever ran, by key."""
    value = tx.meta(workspace, _RUNS)
    return {} if value is None else msgspec.msgpack.decode(value, type=dict[str, SqlRun])


@dataclass(slots=True)
class SqlRuns:
    """The SQL definitions of one workspace. `requests` is a folder with a file for each key to run now."""

    state: State
    workspace: str
    ask: Ask
    folder: Path
    requests: Path
    identifier_key: bytes
    rules: IdentityRules
    clock: Clock
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Run what is due until told to stop."""
        while not self.stop.wait(LOOK_SECONDS):
            self.forget()
            for held in self.due():
                if self.stop.is_set():
                    return
                self.run_one(held)

    def forget(self) -> None:
        """Let go of the rows of entities that are no more."""
        try:
            while not self.stop.is_set() and forget_rows(self.state, self.workspace):
                pass
        except Unavailable as error:
            _log.error("rows of entities that are no more not forgotten, trying again: %s", error)

    def due(self) -> Iterator[Held]:
        """Yield the definitions whose time has come, or that somebody asks for."""
        now = self.clock()
        with self.state.read(self.workspace) as tx:
            held = definitions_now.held(tx, self.workspace)
            last = runs(tx, self.workspace)
        for key, one in held.items():
            if (
                one.definition.kind in SQL
                and one.definition.enabled
                and self._is_due(one, last.get(key), now)
            ):
                yield one

    def _is_due(self, held: Held, last: SqlRun | None, now: int) -> bool:
        if (self.requests / held.definition.key).exists() or last is None or last.version != held.version:
            return True
        wait = float(every_seconds(held.definition))
        if last.again:
            wait = min(wait, AGAIN_SECONDS)
        return now - last.started_at >= wait * _MICROS

    def run_one(self, held: Held) -> SqlRun:
        """Run one definition now and note what came of it; what it gave before stays where that fails."""
        definition = held.definition
        (self.requests / definition.key).unlink(missing_ok=True)
        started_at = self.clock()
        path = self.folder / f"{definition.key}.parquet"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.ask(definition.query, path, self.stop.is_set)
            values = checked(_read(path), definition)
            with self.state.read(self.workspace) as tx:
                rules = rules_in_force(tx, self.workspace, self.rules)
            applied = apply_result(
                self.state,
                self.workspace,
                held,
                values,
                identifier_key=self.identifier_key,
                rules=rules,
                at=started_at,
            )
        except (ProfilelakeError, OSError) as error:
            if not isinstance(error, Invalid | Conflict | Unavailable | OSError):
                raise
            _log.warning("the query of a definition gave no values: %s", type(error).__name__)
            again = not isinstance(error, Invalid)
            failure = str(error)[:FAILURE_CHARACTERS_MAX]
            done = SqlRun(held.version, started_at, self.clock(), failure=failure, again=again)
        else:
            done = SqlRun(
                held.version, started_at, self.clock(), applied.rows, applied.unknown, applied.changed
            )
        finally:
            path.unlink(missing_ok=True)
        self._note(definition.key, done)
        return done

    def _note(self, key: str, done: SqlRun) -> None:
        """Keep what came of a run; a definition that gave values once stays in use when a run fails."""
        with self.state.write() as tx:
            known = definitions_now.held(tx, self.workspace)
            kept = {name: run for name, run in runs(tx, self.workspace).items() if name in known}
            tx.put_meta(self.workspace, _RUNS, {**kept, key: done})
            record = definitions_now.records(tx, self.workspace).get(key)
            if record is None or record.version != done.version or record.status not in _RUNNING:
                return
            status = LIVE if not done.failure or record.status == LIVE else FAILED
            changed = msgspec.structs.replace(record, status=status, failure=done.failure)
            definitions_now.put_records(tx, self.workspace, {key: changed})


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except pa.ArrowException as error:
        raise Unavailable(f"reading the result of a query: {error}; it runs again") from error
