"""A backfill killed at each of its failpoints, again and again, then brought to its end: one line of JSON per run.

    backfill_child.py ROOT PLACE…

Processes are forked: starting one takes longer than its work.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from backfilling import backfill
from pipeline_driver import START, Desk, LogBuilder, Message
from profilelake.audiences import handover
from profilelake.kernels import identity as identity_kernel
from profilelake.kernels import json_paths, siphash
from profilelake.ops import failpoints
from profilelake.pipeline import backfilling

PEOPLE = 7
DEFINED = (
    ("orders", "trait", "event('Order').count()"),
    ("spent", "trait", "event('Order').within(1 day).sum(property('revenue'))"),
    ("kinds", "trait", "event('Order').unique(property('kind'))"),
    ("unpaid", "audience", "event('Order').where( NOT event('Paid').count() >= 1 ).count() >= 1"),
)


def calls(number: int) -> list[Message]:
    """Return what one micro-batch brings."""
    return [
        {
            "type": "track",
            "userId": f"u{(number * 3 + place) % PEOPLE}",
            "event": "Paid" if (number + place) % 4 == 0 else "Order",
            "messageId": f"m{number}-{place}",
            "properties": {"revenue": number + place / 4, "kind": f"k{(number + place) % 3}"},
        }
        for place in range(4)
    ]


def prepare(home: Path) -> None:
    """Leave definitions that wait for a backfill, and events from before, between and after them."""
    desk, log = Desk(home), LogBuilder("00000000000000aa")
    for number in range(4):
        desk.apply([log.record(START + number, calls(number))])
    for place, (key, kind, query) in enumerate(DEFINED):
        desk.apply([log.define(START + 100 + place, key, query, kind=kind, external_ids=())])
    desk.apply([log.record(START + 200, calls(4))])
    desk.publish()
    desk.apply([log.record(START + 300, calls(5))])
    desk.close()


def finish(home: Path) -> dict[str, Any]:
    """Bring everything to its end; return what definitions are worth, and how state and tables differ."""
    desk = Desk(home)
    while backfill(desk):
        pass
    desk.tick(START + 400)
    found = {
        "values": sorted([*place, value] for place, value in desk.values().items()),
        "statuses": sorted(set(desk.statuses().values())),
        "differences": desk.verify(),
    }
    desk.close()
    return found


def dies(home: Path, place: str, count: int) -> bool:
    """Backfill in a process that is killed at a place; tell whether it came that far."""
    child = os.fork()
    if child == 0:
        failpoints._name, failpoints._left = place, count
        desk = Desk(home)
        backfill(desk)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def forked_finish(home: Path) -> dict[str, Any]:
    """Do `finish` in a process of its own: engines that have threads do not survive a fork."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        with os.fdopen(sink, "w") as out:
            json.dump(finish(home), out)
        os._exit(0)
    os.close(sink)
    with os.fdopen(source) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    found: dict[str, Any] = json.loads(text)
    return found


def prepared(home: Path) -> None:
    """Do `prepare` in a process of its own."""
    home.mkdir()
    child = os.fork()
    if child == 0:
        prepare(home)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0


def main() -> int:
    """Kill at every place: the first time it is reached, and later ones."""
    root = Path(sys.argv[1])
    backfilling.SLICE_ROWS = 3  # type: ignore[misc]
    handover.PART_SETS = 2  # type: ignore[misc]
    for kernel in (siphash, identity_kernel, json_paths):
        kernel.warm()
    prepared(root / "wanted")
    wanted = forked_finish(root / "wanted")
    sys.stdout.write(json.dumps({"place": "", "found": wanted, "same": True}) + "\n")
    for place in sys.argv[2:]:
        for count in (1, 3):
            home = root / f"{place}-{count}"
            prepared(home)
            killed = dies(home, place, count)
            found = forked_finish(home)
            line = {"place": place, "count": count, "killed": killed, "same": found == wanted, "found": found}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
