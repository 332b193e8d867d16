"""`profilelake serve`: the supervisor, the port, and which processes there are."""

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import profilelake
from profilelake.app.directory import (
    METRICS,
    DirectoryLock,
    kernel_cache,
    set_up,
    upgrade_quickly,
    write_private,
)
from profilelake.errors import Unavailable
from profilelake.eventlog.embedded import forget_clock
from profilelake.ops import logs
from profilelake.ops.clock import wall
from profilelake.ops.supervisor import Child, Supervisor, die_with_parent
from profilelake.settings import Layout, Settings

if TYPE_CHECKING:
    from profilelake.ops.supervisor import Task

_ALLOCATOR: Final = {
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
}
"""Every micro-batch takes and gives back the same large blocks; giving them to the kernel each time
costs a page fault for every 4 KiB of the next."""

_log = logging.getLogger(__name__)


def serve(settings: Settings, environment: Mapping[str, str]) -> int:
    """Run the server of a data directory until it is told to stop; return the exit code.

    Raises:
        Conflict: the directory is in use, or not a data directory.
        Unavailable: the address cannot be listened on, or a process does not start.
    """
    logs.configure("supervisor")
    layout = Layout(settings.directory)
    upgrade_quickly(layout)
    layout.create()
    lock = DirectoryLock(layout)
    try:
        forget_clock(layout.log)
        set_up(layout, environment)
        _finish_rebuild(settings, layout)
        holder = hold_port(settings.http.host, settings.http.port)
        try:
            return _supervise(settings, layout, holder)
        finally:
            holder.close()
            layout.server.unlink(missing_ok=True)
    finally:
        lock.release()


def hold_port(host: str, port: int) -> socket.socket:
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
    children += [_reader(settings), _teller(settings), *_workers(settings)]
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"

    def ready() -> None:
        document = {
            "url": url,
            "pid": os.getpid(),
            "version": profilelake.__version__,
            "started_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        }
        write_private(layout.server, json.dumps(document) + "\n")
        print(f"profilelake is ready on {url}", file=sys.stderr, flush=True)  # noqa: T201

    from profilelake.manage.limits_hit import REPORT, LimitWatch

    watch = LimitWatch(layout.run / METRICS, layout.run / REPORT, wall)
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


def _set_up_children(layout: Layout) -> None:
    """Make ready what all processes of a server share."""
    shutil.rmtree(layout.run / METRICS, ignore_errors=True)
    (layout.run / METRICS).mkdir()
    for name, value in _ALLOCATOR.items():
        os.environ.setdefault(name, value)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str((layout.run / METRICS).absolute())
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


def _teller(settings: Settings) -> Child:
    """Return the process that tells destinations of changes; whatever it is cut off from is sent again."""
    return Child(name="activate", arguments=["process", "activate", *_arguments(settings)])


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
