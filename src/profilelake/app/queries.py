"""Runs the queries of definitions for a command or a preview, in the same jail and within the same limits as a server does.

Where a server runs, its process that reads the lake runs them. Else workers of this process do.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from profilelake.app.asking import AGAIN, ASKER, POLL_SECONDS, QueryProcess
from profilelake.app.directory import WORKSPACE, identity_rules
from profilelake.app.query_process import sql_answers
from profilelake.errors import Invalid, NotFound, ProfilelakeError, Unavailable
from profilelake.semantics.definitions import Definition
from profilelake.settings import Layout, Settings

if TYPE_CHECKING:
    from profilelake.manage.sql_answers import SqlAnswers
    from profilelake.pipeline.sql_runs import Ask
    from profilelake.plans.queried import Result, Results
    from profilelake.semantics.rules import IdentityRules
    from profilelake.state.store import State

_LOOK_SECONDS: Final = 2.0
"""How long the process that reads the lake may take to take a connection."""


@dataclass(slots=True)
class OwnQueries:
    """Answers queries without a server. What runs them is begun with the first; close it."""

    layout: Layout
    _answers: "SqlAnswers | None" = field(default=None)

    def result(self, query: str, path: Path, is_stopped: Callable[[], bool]) -> None:
        """Write the result of a query into a Parquet file.

        Raises:
            Invalid: the query cannot have one; the error says why.
            Unavailable: not now, there is no jail for it, or `is_stopped` says so.
        """
        if self._answers is None:
            self._answers = sql_answers(Settings.load(self.layout.directory, os.environ), self.layout)
        if self._answers.closed is not None:
            raise Unavailable(f"running a query: {self._answers.closed}")
        self.layout.sql_results.mkdir(mode=0o700, parents=True, exist_ok=True)
        asyncio.run(_written(self._answers, query, path, is_stopped))

    def close(self) -> None:
        """End what runs queries."""
        if self._answers is not None:
            self._answers.queries.nursery.stop()


async def _written(answers: "SqlAnswers", query: str, path: Path, is_stopped: Callable[[], bool]) -> None:
    writing = asyncio.ensure_future(_write(answers, query, path))
    try:
        while not writing.done():
            if is_stopped():
                raise Unavailable("running a query: it was told to stop")
            await asyncio.wait([writing], timeout=POLL_SECONDS)
        writing.result()
    finally:
        writing.cancel()
        # What it failed of was raised above; what is given up here has nobody to tell.
        with suppress(asyncio.CancelledError, Exception):
            await writing


async def _write(answers: "SqlAnswers", query: str, path: Path) -> None:
    from profilelake.query.asking import Asked
    from profilelake.query.failures import Failed

    asked = Asked(query, None, "parquet", answers.job_seconds_max, ASKER, masked=False)
    try:
        async with answers.queries.asked(asked) as running:
            with path.open("wb") as sink:
                async for piece in running.pieces():
                    sink.write(piece)
    except Failed as failed:
        failure = failed.failure
        error = Unavailable if failure.code in AGAIN else Invalid
        raise error(f"running a query: {failure.code}: {failure.message}") from None


@contextmanager
def queries(layout: Layout, state: "State | None", ask: "Ask | None" = None) -> "Iterator[Queries]":
    """Give what runs queries of definitions. `ask` runs one; None for the server, or workers of our own."""
    from profilelake.audiences.reading import scratch

    with scratch(layout.run / "queried") as folder:
        found = Queries(layout, state, folder, ask)
        try:
            yield found
        finally:
            found.close()


@dataclass(slots=True)
class Queries:
    """Runs queries of definitions, each once, and says how their ids are looked up. Results lie in a folder."""

    layout: Layout
    state: "State | None"
    folder: Path
    ask: "Ask | None" = None
    _own: OwnQueries | None = field(default=None)
    _known: "dict[Definition, Result]" = field(default_factory=dict)

    def results(
        self, definitions: Iterable[Definition], is_stopped: Callable[[], bool] = lambda: False
    ) -> "tuple[Results, Mapping[str, ProfilelakeError]]":
        """Return what the queries of definitions give now, and why others give nothing, by key."""
        from profilelake.plans.queried import Result, Results
        from profilelake.workspaces.identifier_key import identifier_key

        found: list[Result] = []
        failed: dict[str, ProfilelakeError] = {}
        for definition in definitions:
            try:
                known = self._known.get(definition)
                if known is None:
                    path = self.folder / f"{len(self._known)}.parquet"
                    self._ask()(definition.query, path, is_stopped)
                    known = self._known[definition] = Result.read(definition, path)
                found.append(known)
            except (Invalid, Unavailable) as error:
                failed[definition.key] = error
            except OSError as error:
                failed[definition.key] = Unavailable(
                    f"writing what the query of {definition.key} gives into {self.folder}: {error.strerror}; "
                    "see that its disk has room, then run it again"
                )
        if not found:
            return Results(), failed
        key = identifier_key(self.layout.secrets, WORKSPACE)
        return Results(tuple(found), key, self._rules()), failed

    def close(self) -> None:
        """End what runs queries."""
        if self._own is not None:
            self._own.close()

    def _ask(self) -> "Ask":
        if self.ask is not None:
            return self.ask
        if _listens(self.layout.query_socket):
            return QueryProcess(self.layout.query_socket).result
        self._own = self._own or OwnQueries(self.layout)
        return self._own.result

    def _rules(self) -> "IdentityRules":
        from profilelake.identity.standing import rules_in_force

        try:
            if self.state is not None:
                with self.state.read(WORKSPACE) as tx:
                    return rules_in_force(tx, WORKSPACE, identity_rules())
        except NotFound:
            pass  # nothing was applied yet
        return identity_rules()


def _listens(place: Path) -> bool:
    """Tell whether a process answers at a socket: one that was killed leaves it behind."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(_LOOK_SECONDS)
        try:
            asking.connect(str(place))
        except OSError:
            return False
    return True
