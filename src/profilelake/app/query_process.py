"""The process that reads the lake for those that answer requests."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from profilelake.app.directory import METRICS, WORKSPACE, identity_rules, untrusted_sources
from profilelake.app.offline import plan
from profilelake.app.patience import when_available
from profilelake.errors import NotFound
from profilelake.ops import logs
from profilelake.ops.clock import wall
from profilelake.ops.metric_files import reserve_metric_files
from profilelake.ops.supervisor import die_with_parent, say_ready
from profilelake.settings import Layout, Settings

if TYPE_CHECKING:
    from profilelake.manage.decisions import LakeQuestion
    from profilelake.manage.sql_answers import SqlAnswers
    from profilelake.serve.history_routes import History
    from profilelake.shapes.asking import SchemaAsked, ShapeSeen
    from profilelake.state.store import State

_log = logging.getLogger(__name__)


def query_process(settings: Settings, *, parent: int, ready: int) -> int:
    """Read the lake for the HTTP processes, which have checked who asks, until told to stop."""
    from profilelake.manage.query_app import query_application
    from profilelake.ops import forward, http
    from profilelake.serve.history_routes import history_routes
    from profilelake.serve.latest_state import LatestState

    die_with_parent(parent)
    logs.configure("query")
    layout = Layout(settings.directory)
    reserve_metric_files(layout.run / METRICS, os.getpid())
    sql, ready = when_available(layout, ready, partial(sql_answers, settings, layout))

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        known = history(layout, LatestState(layout.state, threads=True), layout.run / "query-spill")
        known.past.start()
        past = history_routes(known)
        sql.jobs.start()
        try:
            await http.serve_app(
                query_application([*sql.routes(), *past]),
                forward.listen(layout.query_socket),
                http.HttpLimits(),
                stop=stop,
                on_ready=lambda: say_ready(ready),
            )
        finally:
            await sql.jobs.stop()
            sql.queries.nursery.stop()

    http.run(main())
    return 0


def sql_answers(settings: Settings, layout: Layout) -> "SqlAnswers":
    """Return what answers SQL over HTTP, closed where there is no jail and the operator wants one."""
    from profilelake.lake.catalog import Lake
    from profilelake.lake.local_copies import LocalCopies
    from profilelake.manage.sql_answers import SqlAnswers
    from profilelake.query import jail
    from profilelake.query.asking import Queries, QueryLimits
    from profilelake.query.inputs import Inputs
    from profilelake.query.jobs import Jobs
    from profilelake.query.nursery import Nursery

    lake = Lake.of(layout)  # first: it may be away, and then nothing else was begun
    limits = settings.sql
    closed, jailed = None, limits.jail == "required"
    if not jailed:
        _log.warning("SQL over HTTP runs without a jail (sql.jail = off): whoever may ask can do what we can")
    elif reason := jail.unavailable():
        closed = (
            f"SQL over HTTP is not answered: there is no jail for queries: {reason}; "
            'to run them without one, set sql.jail = "off" or start with --unsafe-sql'
        )
        _log.warning("%s", closed)
    nursery = Nursery()
    if closed is None:
        nursery.start()
    queries = Queries(
        Inputs(
            lake,
            WORKSPACE,
            layout.sql_results,
            LocalCopies(lake.storage, layout.lake_copies, settings.storage.cache_bytes),
        ),
        nursery,
        QueryLimits(
            queries_max=limits.queries_max,
            queries_per_token_max=limits.queries_per_token_max,
            memory_bytes=limits.memory_bytes,
            threads=limits.threads,
            rows_max=limits.rows_max,
            bytes_max=limits.result_bytes_max,
        ),
        jailed=jailed,
    )
    jobs = Jobs(
        queries,
        layout.sql_results,
        wall,
        spool_bytes_max=limits.spool_bytes_max,
        keep_seconds=limits.keep_hours * 3600,
    )
    return SqlAnswers(
        queries, jobs, seconds_max=limits.seconds_max, job_seconds_max=limits.job_seconds_max, closed=closed
    )


def history(layout: Layout, state: "Callable[[], State]", spill: Path) -> "History":
    """Return what the past of profiles is read from; `spill` is a folder of this process alone."""
    from profilelake.identity.rules_now import RulesNow
    from profilelake.lake.catalog import Lake
    from profilelake.serve._past import Past
    from profilelake.serve.admission import scope_of
    from profilelake.serve.history_routes import History
    from profilelake.workspaces.identifier_key import identifier_key

    return History(
        state=state,
        past=Past(
            lambda: Lake.of(layout),
            layout.recent,
            spill,
        ),
        identifier_key=lambda workspace: identifier_key(layout.secrets, workspace),
        rules=identity_rules(),
        rules_now=RulesNow(state, identity_rules()),
        untrusted=partial(untrusted_sources, layout),
        reach=scope_of,
        now=wall,
    )


def schema_page(layout: Layout, asked: "SchemaAsked") -> "list[ShapeSeen]":
    """Return the shapes of events that are asked for, from the tables.

    Raises:
        NotFound: the server never started here.
        Corrupt: a file of a table is missing or damaged.
    """
    import duckdb

    from profilelake.lake.catalog import Lake
    from profilelake.lake.reading import attach, damage_told
    from profilelake.shapes.listing import listed
    from profilelake.shapes.tables import SCHEMA

    if not layout.has_lake:
        raise NotFound(f"schema: no tables in {layout.directory} yet; start the server once")
    lake = Lake.of(layout)
    with duckdb.connect() as connection, damage_told():
        if SCHEMA.name not in attach(connection, lake, WORKSPACE):
            raise NotFound(f"schema: no table of it in {layout.directory} yet; start the server once")
        return listed(connection, asked)


def ask_lake(layout: Layout, question: "LakeQuestion") -> bytes:
    """Answer what only the lake knows, as JSON: where an event stands, or what a decision would do.

    Raises: as `plan`.
    """
    import msgspec

    from profilelake.app import estimating, naming
    from profilelake.lake.catalog import Lake
    from profilelake.pipeline.events_by_id import find_event
    from profilelake.state.store import State

    if question.plan is not None:
        state = State.open(layout.state)
        return msgspec.json.encode(plan(layout, state, question.plan, question.by, question.examples))
    if question.schema is not None:
        return msgspec.json.encode(schema_page(layout, question.schema))
    if question.names is not None:
        return msgspec.json.encode(naming.names_page(layout, question.names))
    if question.changes is not None:
        found = estimating.estimate(layout, State.open(layout.state), question.changes)
        return msgspec.json.encode(found)
    if question.preview is not None:
        seen = estimating.preview(layout, State.open(layout.state), question.preview, question.examples)
        return msgspec.json.encode(seen)
    lake = Lake.of(layout)
    return msgspec.json.encode(find_event(lake, WORKSPACE, question.message_id or ""))
