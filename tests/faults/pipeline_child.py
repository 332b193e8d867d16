"""The pipeline killed at its failpoints, each time in a process of its own, then brought to its end.

    pipeline_child.py ROOT PLACE…

ROOT/log is a finished event log. For each place the run is killed when it is reached for the 1st,
4th, 16th … time, until one lives to its end; what each killed run left behind is continued by another
process (which rebuilds first, where PLACE is `<name>+rebuild`) and compared with what an undisturbed
run gives. Prints one line of JSON per run. Processes are forked: starting one takes longer than its
work.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline_driver import Desk, small_limits
from profilelake.eventlog.embedded import LogReader
from profilelake.kernels import identity as identity_kernel
from profilelake.kernels import siphash
from profilelake.landing import dedup
from profilelake.ops import failpoints
from profilelake.ops.failpoints import reach

EVENTS_PER_BATCH = 6
CURRENT = ("set_map", "identifiers", "identity_map", "identity_refusals", "profiles")
Outcome = dict[str, Any]


def drive(home: Path, log: Path) -> Desk:
    """Apply the log in small micro-batches, publish and tend now and then: what the process does."""
    desk = Desk(home)
    reader = LogReader(log, clock=desk.clock)
    vector = desk.batcher.vector()
    for step in range(1, 1000):
        slice = reader.read(vector, bytes_max=1 << 20, events_max=EVENTS_PER_BATCH, wait_max_seconds=0)
        reach("log.read")
        if not slice.records:
            break
        desk.batcher.apply(slice)
        vector = {**vector, **slice.ends}
        if step % 3 == 0:
            desk.publish(whole=False)
        if step % 4 == 0:
            desk.publisher.tend_runs()
        if step % 6 == 0:
            desk.publisher.merge()
    reader.close()
    desk.publish()
    return desk


def rebuild(home: Path, log: Path) -> None:
    """Make everything again from the lake, as after `drive`."""
    desk = Desk(home)
    desk.rebuild()
    desk.close()


def outcome(desk: Desk) -> Outcome:
    """Return everything that must not depend on where processes died."""
    differences = desk.verify()
    tables = desk.lake_tables("events", "failed_events", "event_copies", *CURRENT)
    return {
        "differences": differences,
        "totals": desk.applied().totals,
        "events": sorted(row[2] for row in tables["events"]),
        "failed": len(tables["failed_events"]),
        "copies": len(tables["event_copies"]),
        **{name: repr(tables[name]) for name in CURRENT},
    }


def forked(work: Callable[[], Outcome | None]) -> tuple[bool, Outcome]:
    """Do work in a process of its own; return whether it was killed, and what it returned."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            result = work() or {}
        except BaseException:  # noqa: BLE001 - told to the parent, whatever it is
            result = {"error": traceback.format_exc()}
        with os.fdopen(sink, "w") as out:
            json.dump(result, out)
        os._exit(0)
    os.close(sink)
    with os.fdopen(source) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return killed, {} if killed else json.loads(text)


def arm(place: str, count: int) -> None:
    failpoints._name, failpoints._left = place, count


def tell(line: Outcome) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def sweep(root: Path, place: str, wanted: Outcome) -> None:
    """Kill runs at one place, at a growing distance, until a run does not come that far."""
    log = root / "log"
    name, _, then = place.partition("+")
    rebuilding = name.startswith("rebuild.")
    count = 1
    while True:
        home = root / f"{place}-{count}"
        home.mkdir()

        def dying(home: Path = home, name: str = name, count: int = count) -> None:
            if rebuilding:
                drive(home, log).close()
                arm(name, count)
                rebuild(home, log)
            else:
                arm(name, count)
                drive(home, log).close()

        def going_on(home: Path = home) -> Outcome:
            if rebuilding or then:
                rebuild(home, log)
            return outcome(drive(home, log))

        killed, said = forked(dying)
        if not killed:
            tell({"place": place, "count": count, "killed": False, **said})
            return
        _, found = forked(going_on)
        wrong = {name: [found.get(name), value] for name, value in wanted.items() if found.get(name) != value}
        error = found.get("error")
        tell({"place": place, "count": count, "killed": True, "wrong": wrong, "error": error})
        count *= 4


def main() -> None:
    root = Path(sys.argv[1])
    small_limits(setattr)
    siphash.warm()
    identity_kernel.warm()
    dedup.warm()
    home = root / "undisturbed"
    home.mkdir()
    _, wanted = forked(lambda: outcome(drive(home, root / "log")))
    tell({"place": "", "killed": False, **wanted})
    for place in sys.argv[2:]:
        sweep(root, place, wanted)


if __name__ == "__main__":
    main()
