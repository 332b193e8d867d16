"""A real server whose disk errs, fills, slows down, or has no descriptor left."""

import asyncio
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from eventlog_senders import Senders, check_exactly_once, refused, resident_bytes, track
from eventlog_tools import injected, small_disk

from eventlog_puppet import wait_until
from served import KEYS, WRITE_KEY, Served, basic, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MIB = 1 << 20
ONE_PROCESS = {
    **KEYS,
    "PROFILELAKE_HTTP_PROCESSES": "1",
    "PROFILELAKE_PIPELINE_LAKE_AGE_SECONDS": "0.3",
}
QUEUE_BYTES_MAX = 64 * MIB
SLOW_SYNC_SECONDS = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all faults that leave it as it was."""
    with serving(tmp_path_factory.mktemp("disk") / "data", ONE_PROCESS) as running:
        yield running


def ready(served: Served) -> bool:
    return served.get("/readyz").status == 200


def events_named(served: Served, name: str) -> list[str]:
    served.committed()
    rows = served.sql("SELECT message_id FROM events ORDER BY message_id")
    return [row["message_id"] for row in rows if row["message_id"].startswith(name)]


def test_a_sync_that_fails_once_is_never_an_acknowledgement(server: Served) -> None:
    assert server.post("/v1/track", track("eio-once-0")).status == 200
    with injected(server.child("http"), "fdatasync:error=EIO:when=1"):
        refused(server.post("/v1/track", track("eio-once-1")), 503, "log_not_writable")
        assert server.post("/v1/track", track("eio-once-2")).status == 200
    assert ready(server)
    assert events_named(server, "eio-once") == ["eio-once-0", "eio-once-2"]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("sync-eio", "fdatasync:error=EIO"),
        ("write-eio", "writev:error=EIO"),
        ("write-enospc", "writev:error=ENOSPC"),
        ("write-edquot", "writev:error=EDQUOT"),
        ("publish-erofs", "pwrite64:error=EROFS"),
    ],
)
def test_a_disk_that_fails_refuses_all_until_it_is_well(server: Served, name: str, fault: str) -> None:
    with Senders(server, name) as senders:
        senders.wait_for(200, 3)
        with injected(server.child("http"), fault):
            senders.wait_for(503, 3)
            assert server.get("/livez").status == 200
            answer = server.get("/readyz")
            assert (answer.status, "retry-after" in answer.headers) == (503, True)
        senders.wait_for(200, 3)
    assert ready(server)
    assert senders.statuses.keys() == {200, 503}
    assert "" not in senders.retry_after
    assert not senders.broken
    ids = set(events_named(server, name + "-"))
    assert senders.acknowledged <= ids <= senders.tried


def test_without_descriptors_what_is_connected_is_served(server: Served) -> None:
    process = server.child("http")
    before = resource.prlimit(process, resource.RLIMIT_NOFILE)
    with Senders(server, "emfile", threads=2) as senders:
        senders.wait_for(200, 3)
        used = max(int(path.name) for path in Path(f"/proc/{process}/fd").iterdir()) + 1
        resource.prlimit(process, resource.RLIMIT_NOFILE, (used, before[1]))
        try:
            # A log that is open needs no other descriptor.
            senders.wait_for(200, 20)
        finally:
            resource.prlimit(process, resource.RLIMIT_NOFILE, before)
        senders.wait_for(200, 3)
    assert senders.statuses.keys() <= {200, 503}
    assert server.get("/livez").status == 200
    assert server.child("http") == process, "the process was not started again"
    ids = set(events_named(server, "emfile-"))
    assert senders.acknowledged <= ids <= senders.tried


def test_a_stuck_disk_holds_memory_and_tells_no_lies(server: Served) -> None:
    process = server.child("http")
    body = (
        b'{"batch":['
        + b",".join(
            b'{"type":"track","userId":"u","event":"e","messageId":"stuck-%d","properties":{"t":"%s"}}'
            % (number, os.urandom(15_000).hex().encode())
            for number in range(30)
        )
        + b"]}"
    )
    assert server.post("/v1/batch", body).status == 200
    before = resident_bytes(process)
    peak = 0

    async def send(place: tuple[str, int], statuses: list[int]) -> None:
        reader, writer = await asyncio.open_connection(*place)
        head = (
            f"POST /v1/batch HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(WRITE_KEY)}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        statuses.append(int((await reader.readline()).split()[1]))
        writer.close()

    async def burst() -> list[int]:
        nonlocal peak
        parts = urlsplit(server.url)
        place = (str(parts.hostname), parts.port or 0)
        statuses: list[int] = []
        senders: set[asyncio.Task[None]] = set()
        started_at = time.monotonic()
        for number in range(300):
            senders.add(asyncio.create_task(send(place, statuses)))
            if number % 8 == 0:
                await asyncio.sleep(0.02)
                peak = max(peak, resident_bytes(process))
        while not all(sender.done() for sender in senders):
            assert time.monotonic() - started_at < 120
            await asyncio.sleep(0.02)
            peak = max(peak, resident_bytes(process))
        await asyncio.gather(*senders)
        return statuses

    with injected(process, f"fdatasync:delay_exit={SLOW_SYNC_SECONDS * 1_000_000}"):
        statuses = asyncio.run(burst())
    # Taken, refused at once, or told to come back because the disk took too long.
    assert {200, 429} <= set(statuses) <= {200, 429, 503}
    # Each body that was taken is held once; what is being read comes on top, and so do answers.
    assert peak - before < 1.5 * QUEUE_BYTES_MAX + 32 * len(body), (peak, before)
    assert len(events_named(server, "stuck-")) == 30
    wait_until(lambda: ready(server))


def test_a_disk_that_fills_is_told_before_it_is_full_and_all_goes_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 256 * MIB) as disk, serving(disk / "data", ONE_PROCESS) as served:
        with Senders(served, "full") as senders:
            senders.wait_for(200, 3)
            ballast = disk / "ballast"
            fill(ballast)
            senders.wait_for(503, 3)
            wait_until(lambda: b"kept in reserve" in served.get("/readyz").body)
            assert served.get("/livez").status == 200
            ballast.unlink()
            senders.wait_for(200, 3)
        assert senders.statuses.keys() == {200, 503}
        assert not senders.broken
        check_exactly_once(served, senders)


METRICS = """
import os, sys
from pathlib import Path
from profilelake.ops.metric_files import reserve_metric_files

os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
reserve_metric_files(Path(sys.argv[1]), os.getpid())
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

counter = Counter("counted", "x", ("label",), registry=CollectorRegistry())
histogram = Histogram("measured", "x", ("label",), registry=CollectorRegistry())
print("ready", flush=True)
sys.stdin.readline()
for number in range(120):
    counter.labels(f"label-{number}").inc()
    histogram.labels(f"label-{number}").observe(1)
registry = CollectorRegistry()
MultiProcessCollector(registry, path=sys.argv[1])
print(generate_latest(registry).decode().count("counted_total{"))
"""


def test_counting_on_a_full_disk_ends_no_process(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2 * MIB) as disk:
        command = [sys.executable, "-c", METRICS, str(disk)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            fill(disk / "ballast")
            assert process.communicate(b"\n", timeout=60)[0] == b"120\n"
        assert process.returncode == 0


def fill(path: Path) -> None:
    """Write until the disk has no byte left."""
    with path.open("wb", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
