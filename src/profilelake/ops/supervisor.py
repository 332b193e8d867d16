"""One parent, its children: start, restart with back-off, drain, and no child without its parent."""

import ctypes
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from profilelake.errors import Conflict, Corrupt, Invalid, NotFound, Unavailable
from profilelake.ops import failpoints

BACK_OFF_FIRST_SECONDS: Final = 0.2
BACK_OFF_MAX_SECONDS: Final = 10.0
STEADY_SECONDS: Final = 30.0
"""A child that lived so long starts its next back-off from the beginning."""
GRACE_SECONDS: Final = 25.0
"""How long children may drain before they are killed."""
START_FAILURES_MAX: Final = 3
"""A child that ends so often before the server was ever ready will not start at all."""
LASTING_FAILURES: Final = frozenset(failure.exit_code for failure in (Invalid, NotFound, Conflict, Corrupt))
"""Exit codes before the server was ever ready that starting again would only repeat."""
READY_SECONDS: Final = 180.0
"""How long all children together may take until they are ready (kernels compile at the first start)."""
TASK_GRACE_SECONDS: Final = 5.0
"""How long children may drain before a task. Under load they would drain for ever: what they process
comes in meanwhile; and what they can be killed in the middle of, they go on with later."""
TASK_PAUSE_SECONDS: Final = 1.0
"""How long a task that is to be run again waits before."""
_PR_SET_PDEATHSIG: Final = 1

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Child:
    """One supervised process: its name and the arguments after `python -m profilelake`.

    `{ready}` in the arguments becomes the descriptor the child writes one byte to when it is ready.
    At the end, children of a lower `stop_stage` are drained first.
    """

    name: str
    arguments: Sequence[str]
    inherit: Sequence[int] = ()
    stop_stage: int = 0
    process: subprocess.Popen[bytes] | None = None
    ready: bool = False
    ready_read: int = -1
    started_at: float = 0.0
    start_at: float = 0.0
    back_off: float = BACK_OFF_FIRST_SECONDS
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """Work during which some children must not run: they are drained, it runs, they start again.

    `arguments` follow `python -m profilelake`. `ended` is told the exit code; while it returns True the task
    is run again, after a pause.
    """

    arguments: Sequence[str]
    instead_of: frozenset[str]
    ended: Callable[[int], bool]


@dataclass(slots=True)
class Interlude:
    """One task at hand: first its children are drained, stage by stage, then it runs."""

    task: Task
    paused: list[Child]
    _deadline: float = 0.0
    _stage: int | None = None
    _process: subprocess.Popen[bytes] | None = None
    _again_at: float = 0.0
    _runs: int = 0

    def go_on(self) -> bool:
        """Do what can be done without waiting; False when the task has ended."""
        running = [child for child in self.paused if child.process is not None]
        if running:
            self._drain(running)
            return True
        if self._process is None:
            if time.monotonic() >= self._again_at:
                self._run()
            return True
        code = self._process.poll()
        if code is None:
            return True
        self._process = None
        if not self.task.ended(code):
            return False
        self._again_at = time.monotonic() + TASK_PAUSE_SECONDS
        return True

    def give_up(self) -> None:
        """Kill the task; it is one that can be killed anywhere."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _drain(self, running: list[Child]) -> None:
        stage = min(child.stop_stage for child in running)
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._deadline = stage, now + TASK_GRACE_SECONDS
            for child in running:
                if child.stop_stage == stage and child.process is not None:
                    child.process.terminate()
        elif now > self._deadline:
            for child in running:
                if child.stop_stage == stage and child.process is not None:
                    child.process.kill()

    def _run(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "profilelake", *self.task.arguments],
            stdin=subprocess.DEVNULL,
            process_group=0,
            env=None if self._runs == 0 else failpoints.disarmed(os.environ),
        )
        self._runs += 1


@dataclass(slots=True)
class Supervisor:
    """Runs children until it is told to stop by SIGTERM or SIGINT.

    Once all are ready `look` is asked, about once a second, whether there is a task to do in between.
    """

    children: list[Child]
    on_ready: Callable[[], None]
    look: Callable[[], Task | None] = lambda: None
    _interlude: Interlude | None = None
    _stopping: bool = False
    _announced: bool = False
    _lasting_failure: int = 0
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def run(self) -> int:
        """Start all children, keep them running, and return an exit code when all have ended.

        Raises:
            Unavailable: the children did not get ready in time, or one of them ends again and again.
        """
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        self._selector.register(wake_read, selectors.EVENT_READ, None)
        started_at = time.monotonic()
        try:
            for child in self.children:
                self._start(child)
            while not self._stopping and not self._lasting_failure:
                for key, _ in self._selector.select(timeout=self._next_start()):
                    if key.data is None:
                        os.read(wake_read, 4096)
                    else:
                        self._read_ready(key.data)
                self._reap()
                self._start_due()
                self._announce(started_at)
                self._tend_task()
            return self._stop() or self._lasting_failure
        finally:
            if self._interlude is not None:
                self._interlude.give_up()
            for child in self.children:
                if child.process is not None and child.process.poll() is None:
                    child.process.kill()
                    child.process.wait()

    def _on_signal(self, number: int, _frame: object) -> None:
        if number != signal.SIGCHLD:
            self._stopping = True

    def _tend_task(self) -> None:
        """Begin a task when one is asked for, and go on with the one at hand."""
        if self._interlude is None and self._announced:
            task = self.look()
            if task is not None:
                self._interlude = Interlude(task, [c for c in self.children if c.name in task.instead_of])
        if self._interlude is not None and not self._interlude.go_on():
            for child in self._interlude.paused:
                child.start_at = time.monotonic()
            self._interlude = None

    def _paused(self, child: Child) -> bool:
        return self._interlude is not None and child in self._interlude.paused

    def _start(self, child: Child) -> None:
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        arguments = [argument.replace("{ready}", str(ready_write)) for argument in child.arguments]
        child.process = subprocess.Popen(
            [sys.executable, "-m", "profilelake", *arguments],
            pass_fds=[ready_write, *child.inherit],
            stdin=subprocess.DEVNULL,
            process_group=0,
            env=None if child.failures == 0 else failpoints.disarmed(os.environ),
        )
        os.close(ready_write)
        child.ready = False
        child.ready_read = ready_read
        child.started_at = time.monotonic()
        self._selector.register(ready_read, selectors.EVENT_READ, child)

    def _read_ready(self, child: Child) -> None:
        child.ready = bool(os.read(child.ready_read, 1)) or child.ready
        self._close_ready(child)

    def _close_ready(self, child: Child) -> None:
        if child.ready_read >= 0:
            self._selector.unregister(child.ready_read)
            os.close(child.ready_read)
            child.ready_read = -1

    def _reap(self) -> None:
        for child in self.children:
            if child.process is None or child.process.poll() is None:
                continue
            if self._paused(child):
                self._close_ready(child)
                child.ready, child.process = False, None
                continue
            self._close_ready(child)
            child.ready = False  # it may have said so just before it ended
            child.failures += 1
            lived = time.monotonic() - child.started_at
            code = child.process.returncode
            if not self._announced and code in LASTING_FAILURES:
                _log.error("process %s ended with %s; starting it again would not help", child.name, code)
                self._lasting_failure = code
                return
            child.back_off = (
                BACK_OFF_FIRST_SECONDS
                if lived > STEADY_SECONDS
                else min(child.back_off * 2, BACK_OFF_MAX_SECONDS)
            )
            _log.error(
                "process %s ended with %s after %.1f s; it starts again in %.1f s",
                child.name,
                code,
                lived,
                child.back_off,
            )
            if not self._announced and child.failures >= START_FAILURES_MAX:
                raise Unavailable(f"starting: process {child.name} does not start; see the log above")
            child.process = None
            child.start_at = time.monotonic() + child.back_off

    def _start_due(self) -> None:
        for child in self.children:
            if child.process is None and time.monotonic() >= child.start_at and not self._paused(child):
                self._start(child)

    def _next_start(self) -> float:
        waits = [
            child.start_at - time.monotonic()
            for child in self.children
            if child.process is None and not self._paused(child)
        ]
        return max(0.0, min([1.0, *waits]))

    def _announce(self, started_at: float) -> None:
        if self._announced:
            return
        if all(child.ready for child in self.children):
            self._announced = True
            self.on_ready()
        elif time.monotonic() - started_at > READY_SECONDS:
            missing = ", ".join(child.name for child in self.children if not child.ready)
            raise Unavailable(f"starting: {missing} not ready after {READY_SECONDS:.0f} s; see the log above")

    def _stop(self) -> int:
        """Drain in stages: who accepts stops first, so that what was accepted is still processed."""
        if self._interlude is not None:
            self._interlude.give_up()
        deadline = time.monotonic() + GRACE_SECONDS
        for stage in sorted({child.stop_stage for child in self.children}):
            running = [c for c in self.children if c.stop_stage == stage and c.process is not None]
            for child in running:
                if child.process is not None:
                    child.process.terminate()
            for child in running:
                _wait(child, deadline)
        return 0


def _wait(child: Child, deadline: float) -> None:
    if child.process is None:
        return
    try:
        child.process.wait(timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        _log.error("process %s did not drain in %.0f s and is killed", child.name, GRACE_SECONDS)
        child.process.kill()
        child.process.wait()


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however that happens."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "binding this process's life to its parent's")
    if os.getppid() != parent:
        os._exit(1)  # the parent died before the kernel was told


def say_ready(descriptor: int) -> None:
    """Tell the supervisor that this process does its work."""
    if descriptor >= 0:
        os.write(descriptor, b"1")
        os.close(descriptor)
