"""The one place where parts are put together: the processes of `profilelake serve`.

Each process imports only what it runs, so that a collecting process carries no query engine and
starts at once; these late imports are the only ones in the project.
"""

import asyncio
import fcntl
import gc
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import profilelake
from profilelake.errors import Conflict, Corrupt, NotFound, Unavailable
from profilelake.eventlog.embedded import forget_clock
from profilelake.ops import logs
from profilelake.ops.clock import wall
from profilelake.ops.metric_files import reserve_metric_files
from profilelake.ops.supervisor import Child, Supervisor, die_with_parent, say_ready
from profilelake.semantics.consent import Policy
from profilelake.semantics.rules import IdentityRules, segment_defaults
from profilelake.settings import Layout, Settings
from profilelake.workspaces.control import Control

if TYPE_CHECKING:
    from starlette.routing import Route

    from profilelake.eventlog.embedded import Limits
    from profilelake.identity.decide import Asked, Deciding
    from profilelake.manage.decisions import LakeQuestion, Place
    from profilelake.manage.guard import Guard
    from profilelake.manage.sql_answers import SqlAnswers
    from profilelake.ops.supervisor import Task
    from profilelake.pipeline.batch import WorkspaceSetup
    from profilelake.serve.history_routes import History
    from profilelake.shapes.listing import SchemaAsked, ShapeSeen
    from profilelake.state.store import State
    from profilelake.workspaces.suppressions import SuppressionRing

WORKSPACE: Final = "default"
_METRICS: Final = "metrics"
_ALLOCATOR: Final = {
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
}
"""Every micro-batch takes and gives back the same large blocks; giving them to the kernel each time
costs a page fault for every 4 KiB of the next."""
_GC_THRESHOLDS: Final = (50_000, 20, 20)
"""Batches make many objects that live until their end; looking for cycles among them is wasted."""
_log = logging.getLogger(__name__)


def identity_rules() -> IdentityRules:
    """Return the identity rules that hold as long as nobody has decided on others."""
    return segment_defaults()


class DirectoryLock:
    """Ownership of a data directory, held until the process ends."""

    def __init__(self, layout: Layout) -> None:
        """Take the lock.

        Raises:
            Conflict: a running process holds it; its owner is named.
        """
        layout.run.mkdir(parents=True, exist_ok=True)
        self._file = (layout.run / "lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            owner = self._file.read().strip() or "another process"
            self._file.close()
            raise Conflict(
                f"opening {layout.directory}: in use by {owner}; stop it first, or name another directory"
            ) from error
        # Whoever wrote it is gone: killed, for instance.
        layout.server.unlink(missing_ok=True)
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} since {datetime.now(UTC).isoformat(timespec='seconds')}\n")
        self._file.flush()

    def release(self) -> None:
        """Let others own the directory."""
        self._file.close()


def serve(settings: Settings, environment: Mapping[str, str]) -> int:
    """Run the server of a data directory until it is told to stop; return the exit code.

    Raises:
        Conflict: the directory is in use, or not a data directory.
        Unavailable: the address cannot be listened on, or a process does not start.
    """
    logs.configure("supervisor")
    layout = Layout(settings.directory)
    _upgrade_quickly(layout)
    layout.create()
    lock = DirectoryLock(layout)
    try:
        forget_clock(layout.log)
        _set_up(layout, environment)
        _finish_rebuild(settings, layout)
        holder = _hold_port(settings.http.host, settings.http.port)
        try:
            return _supervise(settings, layout, holder)
        finally:
            holder.close()
            layout.server.unlink(missing_ok=True)
    finally:
        lock.release()


def _upgrade_quickly(layout: Layout) -> None:
    """Bring a directory of an older program to this format, where that is done in no time."""
    from profilelake.directory_format import FORMAT, read_format
    from profilelake.upgrades.run import upgrade_if_quick

    told = read_format(layout.directory)
    if told is None or (told.format == FORMAT and told.upgrading_to is None):
        return
    lock = DirectoryLock(layout)
    try:
        upgrade_if_quick(layout)  # otherwise opening it says what to do
    finally:
        lock.release()


def upgrade_directory(layout: Layout) -> int:
    """Bring the directory of a stopped server to the format of this program; return the steps done."""
    from profilelake.upgrades.run import upgrade

    logs.configure("upgrade")
    lock = DirectoryLock(layout)
    try:
        return upgrade(layout)
    finally:
        lock.release()


def _set_up(layout: Layout, environment: Mapping[str, str]) -> None:
    """Create workspace, source, keys and identifier key at the first start; show new ones once."""
    given = {
        name: environment.get(f"PROFILELAKE_{name.upper()}") or None
        for name in ("write_key", "read_token", "admin_token")
    }
    with Control.open(layout.control, secrets.token_bytes) as control:
        made = control.ensure_default(now=wall(), **given)
        control.bind_identifier_key(layout.secrets)
    new = {name: value for name in given if (value := getattr(made, name)) is not None}
    if not new:
        return
    # What was given is not written: its owner has it, and may have taken it away from here on purpose.
    _write_private(layout.credentials, json.dumps(_credentials(layout) | new, indent=2) + "\n")
    for name, value in new.items():
        print(f"{name}: {value}", file=sys.stderr)  # noqa: T201 - shown once, to the operator


def _credentials(layout: Layout) -> dict[str, str]:
    try:
        known = json.loads(layout.credentials.read_text())
        if isinstance(known, dict):
            return known
    except FileNotFoundError:
        return {}
    except ValueError:
        pass
    raise Corrupt(
        f"reading {layout.credentials}: it is not JSON as we wrote it; move it away and start again"
    )


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as sink:
        sink.write(text)
        sink.flush()
        os.fsync(sink.fileno())
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _hold_port(host: str, port: int) -> socket.socket:
    """Reserve the port for the HTTP processes without accepting on it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # Sharing the port among our processes must not let two servers share it unknowingly: one that
        # wants the port for itself is refused, be it that the other listens already or only holds it.
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        holder = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _not_listening(host, port, error) from error
    try:
        # Without SO_REUSEADDR, which would let the probe of another server pass as long as nobody listens.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address)
    except OSError as error:
        holder.close()
        raise _not_listening(host, port, error) from error
    return holder


def _not_listening(host: str, port: int, error: OSError) -> Unavailable:
    return Unavailable(
        f"listening on {host}:{port}: {error.strerror or error}; choose another --port or --host"
    )


def _supervise(settings: Settings, layout: Layout, holder: socket.socket) -> int:
    host, port = holder.getsockname()[:2]
    _set_up_children(layout)
    common = _arguments(settings)
    children = [
        Child(
            name=f"http-{number}",
            arguments=["process", "http", *common, "--host", host, "--port", str(port)],
        )
        for number in range(settings.http.processes)
    ]
    children += [_reader(settings), *_workers(settings)]
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"

    def ready() -> None:
        document = {
            "url": url,
            "pid": os.getpid(),
            "version": profilelake.__version__,
            "started_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        }
        _write_private(layout.server, json.dumps(document) + "\n")
        print(f"profilelake is ready on {url}", file=sys.stderr, flush=True)  # noqa: T201

    from profilelake.manage.limits_hit import REPORT, LimitWatch

    watch = LimitWatch(layout.run / _METRICS, layout.run / REPORT, wall)
    watch.start()
    try:
        return Supervisor(children, ready, partial(_rebuild_asked, settings, layout)).run()
    finally:
        watch.stop()


def _rebuild_asked(settings: Settings, layout: Layout) -> "Task | None":
    """Return the rebuild that somebody has asked the running server for."""
    from profilelake.ops.supervisor import LASTING_FAILURES, Task
    from profilelake.pipeline.rebuilding import ended, load

    path = layout.rebuild_request
    asked = load(path)
    if asked is None or not asked.open:
        return None
    return Task(
        arguments=_rebuild_arguments(settings),
        instead_of=frozenset(child.name for child in _workers(settings)),
        ended=lambda code: ended(path, code, LASTING_FAILURES),
    )


def _rebuild_arguments(settings: Settings) -> list[str]:
    return ["process", "rebuild", "--dir", str(settings.directory), "--parent", str(os.getpid())]


def _finish_rebuild(settings: Settings, layout: Layout) -> None:
    """Finish the rebuild that the last server was at when it ended: state and tables may not agree.

    Raises:
        Unavailable: it fails again.
    """
    from profilelake.ops.supervisor import LASTING_FAILURES
    from profilelake.pipeline.rebuilding import ended, load

    path = layout.rebuild_request
    begun = load(path)
    if begun is None or not begun.open:
        return
    _log.info("finishing the rebuild that the last server was asked for")
    again = True
    while again:
        command = [sys.executable, "-m", "profilelake", *_rebuild_arguments(settings)]
        again = ended(path, subprocess.run(command, check=False).returncode, LASTING_FAILURES)
    known = load(path)
    if known is not None and known.stage == "failed":
        raise Unavailable(
            f"finishing a rebuild: {known.error}; put it right, then: profilelake rebuild --dir {layout.directory}"
        )


def rebuild_process(settings: Settings, *, parent: int) -> int:
    """Rebuild while the supervisor, which owns the directory, keeps everybody else from writing."""
    import msgspec

    from profilelake.errors import ProfilelakeError
    from profilelake.pipeline.rebuilding import load, store

    die_with_parent(parent)
    logs.configure("rebuild")
    layout = Layout(settings.directory)
    path = layout.rebuild_request
    asked = load(path)
    if asked is None:
        raise Conflict("rebuilding: nobody asked for it")
    now = msgspec.structs.replace(asked, stage="running", error="", step="")
    store(path, now)

    def report(step: str) -> None:
        nonlocal now
        now = msgspec.structs.replace(now, step=step)
        store(path, now)

    try:
        result = _rebuild(layout, report)
    except ProfilelakeError as error:
        store(path, msgspec.structs.replace(now, error=str(error)))
        raise
    store(path, msgspec.structs.replace(now, stage="done", result=result))
    return 0


def _set_up_children(layout: Layout) -> None:
    """Make ready what all processes of a server share."""
    shutil.rmtree(layout.run / _METRICS, ignore_errors=True)
    (layout.run / _METRICS).mkdir()
    for name, value in _ALLOCATOR.items():
        os.environ.setdefault(name, value)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str((layout.run / _METRICS).absolute())
    os.environ.setdefault("NUMBA_CACHE_DIR", str(kernel_cache(layout)))


def _arguments(settings: Settings) -> list[str]:
    return ["--dir", str(settings.directory), "--parent", str(os.getpid()), "--ready", "{ready}"]


def _workers(settings: Settings) -> list[Child]:
    """Return the processes between log and lake."""
    common = _arguments(settings)
    return [
        Child(name="pipeline", arguments=["process", "pipeline", *common], stop_stage=1),
        Child(name="lake", arguments=["process", "lake", *common], stop_stage=2),
    ]


def _reader(settings: Settings) -> Child:
    """Return the process that reads the lake for the HTTP processes; it drains as they do."""
    arguments = ["process", "query", *_arguments(settings), "--sql-jail", settings.sql.jail]
    return Child(name="query", arguments=arguments)


def apply_only(settings: Settings, *, parent: int) -> int:
    """Bring what is in the log into state and lake, without collecting or serving, until told to stop.

    Raises:
        Conflict: a server runs on the directory, and does so itself.
    """
    die_with_parent(parent)
    logs.configure("supervisor")
    layout = Layout(settings.directory)
    lock = DirectoryLock(layout)
    try:
        _set_up_children(layout)
        return Supervisor(_workers(settings), lambda: None).run()
    finally:
        lock.release()


def log_limits(settings: Settings) -> "Limits":
    """Return the limits of whoever writes to the event log, and of whoever prunes it."""
    from profilelake.eventlog.embedded import Limits

    return Limits(log_bytes_max=settings.log.bytes_max)


def kernel_cache(layout: Layout) -> Path:
    """Return where compiled kernels are kept: once per user and version, where the user has a place."""
    name = f"kernels-{profilelake.__version__}"
    try:
        root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        cache = Path(root) / "profilelake" / name
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK):
            return cache
    except (OSError, RuntimeError):
        pass  # no home, or one that cannot be written to, as in many containers
    return layout.run.absolute() / name


def http_process(settings: Settings, *, parent: int, ready: int, host: str, port: int) -> int:
    """Collect events and serve profiles on a shared port until told to stop."""
    from prometheus_client import CollectorRegistry

    from profilelake.collect.limits import CollectLimits
    from profilelake.collect.suppress import Suppression
    from profilelake.collect.tracking import Tracking
    from profilelake.eventlog.embedded import LogWriter
    from profilelake.eventlog.metrics import LogMetrics, LogSize
    from profilelake.identity.rules_now import RulesNow
    from profilelake.manage.app import Management
    from profilelake.manage.external_ids import is_deletion
    from profilelake.manage.guard import Guard
    from profilelake.manage.limits_hit import REPORT
    from profilelake.manage.sql import SqlDoor
    from profilelake.ops import http
    from profilelake.ops.forward import Forward
    from profilelake.serve.latest_state import LatestState
    from profilelake.serve.profile_api import ProfileApi, request_ids
    from profilelake.workspaces.identifier_key import identifier_key
    from profilelake.workspaces.keyring import KeyRing
    from profilelake.workspaces.suppressions import SuppressionRing

    die_with_parent(parent)
    logs.configure("http")
    layout = Layout(settings.directory)
    reserve_metric_files(layout.run / _METRICS, os.getpid())
    keys = KeyRing(layout.control)
    keys.poll()
    suppressed = SuppressionRing(layout.control)
    suppressed.refresh()
    registry = CollectorRegistry()
    state = LatestState(layout.state)
    rules = RulesNow(state, identity_rules())

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        writer = LogWriter(
            layout.log,
            region=settings.region,
            clock=wall,
            limits=log_limits(settings),
            on_durable=LogMetrics(registry).flushed,
        )
        profiles = ProfileApi(
            state,
            layout.recent,
            lambda workspace: identifier_key(layout.secrets, workspace),
            keys,
            rules=rules,
            registry=registry,
            request_id=request_ids(secrets.token_bytes(8)),
            now=wall,
            requests_per_second=settings.http.profile_requests_per_second or None,
            processes=settings.http.processes,
            past=Forward(layout.query_socket),
        )
        guard = Guard(keys, WORKSPACE, wall)
        management = Management(
            workspace=WORKSPACE,
            guard=guard,
            state=state,
            log_directory=layout.log,
            flush_request=layout.flush_request,
            metrics_directory=layout.run / _METRICS,
            limits_report=layout.run / REPORT,
            keys=keys,
            trouble=lambda: writer.trouble,
            clock=wall,
            collectors=[LogSize(layout.log, settings.log.bytes_max)],
        ).application(
            [
                *management_routes(layout, guard, state, suppressed, rules, writer.place),
                *SqlDoor(keys, WORKSPACE, wall, Forward(layout.query_socket)).routes(),
            ]
        )

        async def otherwise(scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
            path = scope["path"]
            if path.startswith(("/v1/spaces/", "/v1/namespaces/")) and not is_deletion(path):
                await profiles(scope, receive, send)
            else:
                await management(scope, receive, send)

        bundles = settings.http.browser_bundles
        limits = CollectLimits(
            trusted_proxies=settings.http.proxies(),
            processes=settings.http.processes,
            public_url=settings.http.public_url,
            browser_bundles=settings.directory / bundles if bundles else None,
            unknown_key="accept_and_drop" if settings.http.unknown_key == "accept_and_drop" else "reject",
        )
        suppression = Suppression(
            suppressed, rules, lambda workspace: identifier_key(layout.secrets, workspace), limits
        )
        tracking = Tracking(writer, keys, limits, registry, otherwise, suppression=suppression)
        try:
            await http.serve_app(
                tracking,
                http.bind(host, port),
                http.HttpLimits(),
                stop=stop,
                on_ready=lambda: _freeze_and_say_ready(ready),
            )
        finally:
            await asyncio.to_thread(writer.close)

    http.run(main())
    return 0


def _freeze_and_say_ready(ready: int) -> None:
    """Say that requests are answered, and look no more for cycles in what lives as long as the process.

    A full look takes tens of milliseconds, for which whatever request comes next would wait.
    """
    gc.collect()
    gc.freeze()
    say_ready(ready)


def management_routes(
    layout: Layout,
    guard: "Guard",
    state: "Callable[[], State]",
    suppressed: "SuppressionRing",
    rules: Callable[[str], IdentityRules],
    place: "Place",
) -> "list[Route]":
    """Return the routes of each area of management; `place` makes an entry of the event log durable."""
    from profilelake.manage.changes import Changes
    from profilelake.manage.decisions import decision_routes
    from profilelake.manage.identity import Explaining, identity_routes, sets_in_lake
    from profilelake.manage.openapi import openapi_route
    from profilelake.manage.schema import schema_routes
    from profilelake.manage.sources import source_routes
    from profilelake.manage.suppressions import suppression_routes
    from profilelake.manage.tail import tail_routes
    from profilelake.manage.tokens import token_routes
    from profilelake.workspaces.identifier_key import identifier_key

    changes = Changes(layout.control, WORKSPACE, wall)
    return [
        *source_routes(guard, changes),
        *token_routes(guard, changes),
        *suppression_routes(
            guard, changes, lambda: identifier_key(layout.secrets, WORKSPACE), rules, suppressed
        ),
        *tail_routes(guard, layout.tail(WORKSPACE), WORKSPACE, state),
        *decision_routes(
            guard, changes, deciding(layout, state), place, layout.directory, layout.log, layout.flush_request
        ),
        *identity_routes(
            guard,
            Explaining(
                workspace=WORKSPACE,
                state=state,
                key=lambda: identifier_key(layout.secrets, WORKSPACE),
                rules=identity_rules(),
                recent_directory=layout.recent(WORKSPACE),
                sets_in_lake=sets_in_lake(layout.directory),
            ),
        ),
        *schema_routes(guard, layout.directory, wall),
        openapi_route(),
    ]


def deciding(layout: Layout, state: "Callable[[], State]") -> "Deciding":
    """Return what checks decisions about identity against the state."""
    from profilelake.identity.decide import Deciding
    from profilelake.profiles.memberships import belongs
    from profilelake.workspaces.identifier_key import identifier_key

    return Deciding(
        state=state,
        workspace=WORKSPACE,
        key=lambda: identifier_key(layout.secrets, WORKSPACE),
        rules=identity_rules(),
        read_rules=partial(read_rules, layout),
        belongs=belongs,
    )


def read_rules(layout: Layout, text: str | None) -> IdentityRules:
    """Return the identity rules in `text`, or those of the data directory's definitions."""
    from profilelake.definitions import identity

    return identity.load(layout.identity_rules) if text is None else identity.parse(text)


def plan(layout: Layout, state: "State", asked: "Asked", by: str, examples: int = 0) -> dict[str, object]:
    """Return what a decision about identity would record and change, as of what is published.

    Raises:
        NotFound: the server never started here, or what the decision names is not there.
        Invalid, Conflict: it cannot be made as it is.
    """
    os.environ.setdefault("NUMBA_CACHE_DIR", str(kernel_cache(layout)))  # before numba is imported
    from profilelake.lake.catalog import Lake
    from profilelake.pipeline.effects import plan_document

    lake = Lake.open(layout.catalog_uri, layout.warehouse)
    untrusted = _workspace(layout).untrusted()
    return plan_document(
        deciding(layout, lambda: state), lake, asked, by, examples=examples, untrusted=untrusted
    )


def ask_lake(layout: Layout, question: "LakeQuestion") -> bytes:
    """Answer what only the lake knows, as JSON: where an event stands, or what a decision would do.

    Raises: as `plan`.
    """
    import msgspec

    from profilelake.lake.catalog import Lake
    from profilelake.pipeline.events_by_id import find_event
    from profilelake.state.store import State

    if question.plan is not None:
        state = State.open(layout.state)
        return msgspec.json.encode(plan(layout, state, question.plan, question.by, question.examples))
    if question.schema is not None:
        return msgspec.json.encode(schema_page(layout, question.schema))
    lake = Lake.open(layout.catalog_uri, layout.warehouse)
    return msgspec.json.encode(find_event(lake, WORKSPACE, question.message_id or ""))


def query_process(settings: Settings, *, parent: int, ready: int) -> int:
    """Read the lake for the HTTP processes, which have checked who asks, until told to stop."""
    from profilelake.manage.query_app import query_application
    from profilelake.ops import forward, http
    from profilelake.serve.history_routes import history_routes
    from profilelake.serve.latest_state import LatestState

    die_with_parent(parent)
    logs.configure("query")
    layout = Layout(settings.directory)
    reserve_metric_files(layout.run / _METRICS, os.getpid())
    sql = sql_answers(settings, layout)

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        past = history_routes(history(layout, LatestState(layout.state, threads=True)))
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
    from profilelake.manage.sql_answers import SqlAnswers
    from profilelake.query import jail
    from profilelake.query.asking import Queries, QueryLimits
    from profilelake.query.inputs import Inputs
    from profilelake.query.jobs import Jobs
    from profilelake.query.nursery import Nursery

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
    lake = Lake.open(layout.catalog_uri, layout.warehouse)
    queries = Queries(
        Inputs(lake, WORKSPACE, layout.sql_results),
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


def history(layout: Layout, state: "Callable[[], State]") -> "History":
    """Return what the past of profiles is read from."""
    from profilelake.identity.rules_now import RulesNow
    from profilelake.lake.catalog import Lake
    from profilelake.serve._past import Past
    from profilelake.serve.admission import scope_of
    from profilelake.serve.history_routes import History
    from profilelake.workspaces.identifier_key import identifier_key

    return History(
        state=state,
        past=Past(
            lambda: Lake.open(layout.catalog_uri, layout.warehouse),
            layout.recent,
            layout.run / "spill",
        ),
        identifier_key=lambda workspace: identifier_key(layout.secrets, workspace),
        rules=identity_rules(),
        rules_now=RulesNow(state, identity_rules()),
        untrusted=partial(_untrusted, layout),
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

    if not (layout.directory / "catalog.sqlite").exists():
        raise NotFound(f"schema: no tables in {layout.directory} yet; start the server once")
    lake = Lake.open(layout.catalog_uri, layout.warehouse)
    with duckdb.connect() as connection, damage_told():
        if SCHEMA.name not in attach(connection, lake, WORKSPACE):
            raise NotFound(f"schema: no table of it in {layout.directory} yet; start the server once")
        return listed(connection, asked)


def pipeline_process(settings: Settings, *, parent: int, ready: int) -> int:
    """Apply what was collected to the state until told to stop."""
    from prometheus_client import CollectorRegistry

    from profilelake.kernels import dense, known_ids, siphash
    from profilelake.kernels import identity as identity_kernel
    from profilelake.landing import dedup, parse
    from profilelake.pipeline.run import Applying
    from profilelake.state.store import State

    die_with_parent(parent)
    logs.configure("pipeline")
    layout = Layout(settings.directory)
    reserve_metric_files(layout.run / _METRICS, os.getpid())
    warm_at = time.monotonic()
    for part in (siphash, dense, identity_kernel, known_ids, parse, dedup):
        part.warm()
    _log.info("kernels ready after %.1f s", time.monotonic() - warm_at)
    gc.set_threshold(*_GC_THRESHOLDS)
    state = State.open(layout.state, writable=True)
    applying = Applying(
        log_directory=layout.log,
        state=state,
        workspaces=[_workspace(layout, settings.pipeline.policy())],
        region=settings.region,
        settings=settings.pipeline,
        clock=wall,
        registry=CollectorRegistry(),
    )
    _stop_on_signals(applying.stop)
    say_ready(ready)
    applying.run()
    state.close()
    return 0


def lake_process(settings: Settings, *, parent: int, ready: int) -> int:
    """Publish the state to the lake, and tend both, until told to stop."""
    from prometheus_client import CollectorRegistry

    from profilelake.lake.catalog import Lake
    from profilelake.pipeline.publish import check_epoch, ensure_tables
    from profilelake.pipeline.run import Publishing
    from profilelake.shapes import observed
    from profilelake.state.store import State

    die_with_parent(parent)
    logs.configure("lake")
    layout = Layout(settings.directory)
    reserve_metric_files(layout.run / _METRICS, os.getpid())
    observed.warm()
    gc.set_threshold(*_GC_THRESHOLDS)
    lake = Lake.open(layout.catalog_uri, layout.warehouse)
    ensure_tables(lake, WORKSPACE)
    state = State.open(layout.state, writable=True)
    state.ensure([WORKSPACE])
    check_epoch(state, lake, WORKSPACE)
    publishing = Publishing(
        log_limits=log_limits(settings),
        log_directory=layout.log,
        flush_request=layout.flush_request,
        state=state,
        lake=lake,
        workspaces=[_workspace(layout)],
        settings=settings.pipeline,
        clock=wall,
        registry=CollectorRegistry(),
        lake_settings=settings.lake,
        lake_requests=layout.lake_requests,
        maintenance_record=layout.maintenance_record,
    )
    _stop_on_signals(publishing.stop)
    say_ready(ready)
    publishing.run()
    state.close()
    return 0


def _stop_on_signals(stop: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())


def verify_directory(layout: Layout) -> list[dict[str, str]]:
    """Return where state and tables of a stopped server differ from the accepted facts."""
    os.environ.setdefault("NUMBA_CACHE_DIR", str(kernel_cache(layout)))  # before numba is imported
    from profilelake.lake.catalog import Lake
    from profilelake.lake.reading import damage_told
    from profilelake.pipeline.observing import Observing
    from profilelake.pipeline.publish import Publisher, ensure_tables
    from profilelake.pipeline.verify import finish_replays, verify
    from profilelake.state.store import State

    lock = DirectoryLock(layout)
    try:
        setup = _workspace(layout)
        state = State.open(layout.state, writable=True)
        state.ensure([WORKSPACE])
        finish_replays(setup, state, "", wall())
        lake = Lake.open(layout.catalog_uri, layout.warehouse)
        ensure_tables(lake, WORKSPACE)
        Publisher(
            workspace=WORKSPACE,
            state=state,
            lake=lake,
            recent_directory=setup.recent_directory,
            rules=setup.rules,
            clock=wall,
            publish_age_seconds=0.0,
            observing=Observing.of(setup.identifier_key),
        ).publish(whole=True)
        with damage_told():
            differences = verify(setup, state, lake)
        return [{"what": found.what, "detail": found.detail} for found in differences]
    finally:
        lock.release()


def rebuild_directory(layout: Layout) -> dict[str, object]:
    """Make state and current tables of a stopped server again from the lake."""
    lock = DirectoryLock(layout)
    try:
        result = _rebuild(layout, lambda step: _log.info("%s done", step))
        layout.rebuild_request.unlink(missing_ok=True)
        return result
    finally:
        lock.release()


def _rebuild(layout: Layout, report: Callable[[str], None]) -> dict[str, object]:
    os.environ.setdefault("NUMBA_CACHE_DIR", str(kernel_cache(layout)))  # before numba is imported
    from profilelake.lake.catalog import Lake
    from profilelake.lake.reading import damage_told
    from profilelake.pipeline.publish import ensure_tables
    from profilelake.pipeline.verify import rebuild

    try:
        lake = Lake.open(layout.catalog_uri, layout.warehouse)
        ensure_tables(lake, WORKSPACE)
        gc.disable()  # a record of everything lives until the end: looking for cycles is wasted
        with damage_told():
            policy = Settings.load(layout.directory, os.environ).pipeline.policy()
            return rebuild(_workspace(layout, policy), layout.state, lake, wall(), report)
    finally:
        gc.enable()


def _workspace(layout: Layout, policy: Policy | None = None) -> "WorkspaceSetup":
    from profilelake.lake.catalog import Lake
    from profilelake.pipeline.batch import WorkspaceSetup
    from profilelake.pipeline.history import EventHistory
    from profilelake.workspaces.identifier_key import identifier_key
    from profilelake.workspaces.suppressions import Following

    return WorkspaceSetup(
        name=WORKSPACE,
        rules=identity_rules(),
        identifier_key=identifier_key(layout.secrets, WORKSPACE),
        suppressed=partial(Following(layout.control, "ident_id").now, WORKSPACE),
        recent_directory=layout.recent(WORKSPACE),
        dedup_directory=layout.dedup(WORKSPACE),
        tail_directory=layout.tail(WORKSPACE),
        history=EventHistory(
            lambda: Lake.open(layout.catalog_uri, layout.warehouse), layout.recent(WORKSPACE)
        ),
        consent_policy=policy,
        untrusted=partial(_untrusted, layout),
    )


def _untrusted(layout: Layout) -> frozenset[str]:
    """Return the sources that strangers can write to."""
    with Control.open(layout.control, secrets.token_bytes) as control:
        return frozenset(source.id for source in control.sources() if not source.trusted)
