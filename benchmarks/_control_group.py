"""What a command may take and what it took, all processes it starts included, as the kernel counts them."""

import multiprocessing
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Concatenate, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_ROOT: Final = Path("/sys/fs/cgroup")
_UNIFIED: Final = (_ROOT / "cgroup.controllers").exists()
"""Whether the machine has control groups of version 2, where a group has all controllers."""
_LOOK_SECONDS: Final = 0.1
_END_SECONDS: Final = 60.0
"""How long processes that were started may go on when the first has ended."""


class ControlGroup:
    """A group of processes: what they take is counted together, ended ones too, and their memory has a limit.

    Needs root, as making groups does. The limit holds pages of files too, which the kernel drops before it refuses;
    a process that needs more is killed, and the command fails.
    """

    def __init__(self, memory_bytes: int | None) -> None:
        """Make a group whose processes may hold `memory_bytes` together, or whatever there is."""
        name = f"benchmark-{uuid.uuid4().hex[:8]}"
        parents = [_ROOT] if _UNIFIED else [_ROOT / "memory", _ROOT / "cpuacct"]
        self._places = [parent / name for parent in parents]
        try:
            if _UNIFIED:
                (_ROOT / "cgroup.subtree_control").write_text("+cpu +memory")
            for place in self._places:
                place.mkdir()
        except OSError as error:
            raise SystemExit(f"making a control group: {error}: run as root, or mount {_ROOT}") from error
        if memory_bytes is not None:
            limit = "memory.max" if _UNIFIED else "memory.limit_in_bytes"
            (self._places[0] / limit).write_text(str(memory_bytes))

    def __enter__(self) -> "ControlGroup":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the group once its processes have ended."""
        given_up_at = time.monotonic() + _END_SECONDS
        while left := self.members():
            if time.monotonic() > given_up_at:
                raise SystemExit(f"processes {left} did not end in {_END_SECONDS:.0f} s; look what they do")
            time.sleep(_LOOK_SECONDS)
        for place in self._places:
            place.rmdir()

    def join(self) -> None:
        """Put the calling process into the group, and with it all that it will start."""
        for place in self._places:
            (place / "cgroup.procs").write_text(str(os.getpid()))

    def members(self) -> list[int]:
        """Return the processes that are in the group now."""
        return [int(line) for line in (self._places[0] / "cgroup.procs").read_text().split()]

    def cpu_seconds(self) -> float:
        """Return the processor seconds of all that have been in the group."""
        if _UNIFIED:
            return _field(self._places[0] / "cpu.stat", "usage_usec") / 1e6
        return int((self._places[1] / "cpuacct.usage").read_text()) / 1e9

    def memory_refused(self) -> int:
        """Return how often a process was killed, because the group may not hold more."""
        file = self._places[0] / ("memory.events" if _UNIFIED else "memory.oom_control")
        return _field(file, "oom_kill")


def alone(work: Callable[Concatenate[ControlGroup, P], T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run in a process and a control group of its own, and give it the group, which says what it took so far."""
    context = multiprocessing.get_context("spawn")
    with ControlGroup(None) as group, context.Pool(1, group.join) as pool:
        return pool.apply(work, (group, *arguments), named)


def _field(file: Path, name: str) -> int:
    for line in file.read_text().splitlines():
        key, value = line.split()
        if key == name:
            return int(value)
    raise SystemExit(f"{file} tells no {name}")
