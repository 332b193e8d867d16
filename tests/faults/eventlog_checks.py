"""What must hold for a log whose writer was killed, whenever that was."""

import json
import os
import subprocess
import sys
from pathlib import Path

from eventlog_puppet import entry, position, read_all, write_log
from profilelake.eventlog import Record
from profilelake.eventlog._format import HEADER_BYTES
from profilelake.eventlog.embedded import ends

CHILD = Path(__file__).with_name("eventlog_child.py")
CALLS = Path(__file__).with_name("eventlog_calls.py")


def sweep(root: Path, first: int, step: int, last: int, mode: str) -> list[Path]:
    """Kill one writer per operation and return their directories."""
    subprocess.run(
        [sys.executable, str(CHILD), "sweep", str(root), str(first), str(step), str(last), mode],
        check=True,
        timeout=100,
    )
    return sorted(root.iterdir())


def sweep_calls(work: str, root: Path, shim: Path, first: int, step: int, mode: str) -> list[Path]:
    """Kill one worker per call of the C library that changes a file, and return their directories."""
    subprocess.run(
        [sys.executable, str(CALLS), work, str(root), str(first), str(step), mode],
        check=True,
        timeout=100,
        env={**os.environ, "LD_PRELOAD": str(shim)},
    )
    return sorted(root.iterdir())


def acknowledged(home: Path) -> list[bytes]:
    ledger = home / "ledger"
    # The last line may be torn as well.
    return ledger.read_bytes().split(b"\n")[:-1] if ledger.exists() else []


def check_survived(home: Path) -> list[Record]:
    """Every acknowledged entry is read once, in order; nothing else is wrong; writing goes on."""
    root = home / "log"
    records, vector, damage = read_all(root)
    bodies = [record.body.rstrip(b".") for record in records]
    assert set(acknowledged(home)) <= set(bodies), f"lost in {home}"
    assert len(bodies) == len(set(bodies)), f"doubled in {home}"
    assert [position(record) for record in records] == sorted(position(record) for record in records)
    for task in {body.rsplit(b"-", 1)[0] for body in bodies}:
        numbers = [int(body.rsplit(b"-", 1)[1]) for body in bodies if body.rsplit(b"-", 1)[0] == task]
        assert numbers == list(range(len(numbers)))
    assert all(each.events == 0 for each in damage)
    known = {log_id: end for log_id, end in ends(root).items() if end.offset}
    assert known == vector
    log_id = write_log(root, [entry(b"after the crash")])
    later = read_all(root, vector)[0]
    assert [(record.body, record.log_id) for record in later] == [(b"after the crash", log_id)]
    assert not records or later[0].received_at > records[-1].received_at
    return records


def cut_the_power(home: Path, share: float) -> None:
    """Take away what was not synced: `share` of each file's unsynced bytes stays, the rest is zeros,
    and what was published in shared memory is gone."""
    synced: dict[int, int] = {}
    noted = home / "synced"
    for line in noted.read_text().splitlines() if noted.exists() else []:
        inode, size = json.loads(line)
        synced[inode] = size
    for path in (home / "log").rglob("*.seg"):
        size = path.stat().st_size
        durable = synced.get(path.stat().st_ino, 0)
        assert durable >= HEADER_BYTES, "a segment had its name before it was synced"
        if size > durable:
            content = path.read_bytes()
            stays = durable + int((size - durable) * share)
            path.write_bytes(content[:stays] + bytes(size - stays))
    for path in (home / "log").rglob("watermark"):
        path.write_bytes(path.read_bytes()[:1024].ljust(4096, b"\0"))
