"""A load generator for the tracking API that costs far less than the server it loads.

Bodies are built before the clock starts (and kept as a file, so a second run starts at once); while
sending, a request is one write of bytes that exist already. Every event has a message id of its own,
so the server does the same work as with real traffic.

    python benchmarks/load.py --url http://127.0.0.1:8080 --write-key wk_... --events 1000000
"""

import argparse
import asyncio
import base64
import json
import random
import struct
import sys
import tempfile
import time
import uuid
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Self, cast
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop
from isal import igzip

IDENTIFY_SHARE: Final = 0.20
PAGE_SHARE: Final = 0.20
SIGNED_IN_SHARE: Final = 0.60
COVERING_WAYS: Final = 3
"""Identified, signed in, anonymous: the sets of identifiers one person is seen with."""
RECONNECTS_MAX: Final = 100
RETRY_SECONDS_MAX: Final = 30.0
CORPUS_VERSION: Final = 1
_LENGTH: Final = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class Mix:
    """What the events look like; equal values give equal bytes.

    20 % identify with traits, 20 % page, the rest track. Each event belongs to one of `profiles`
    people; `new_share` of the events bring an anonymous id nobody has seen before. With `cover`, the
    events instead show every person once in each way: as a lake that has run for long knows them.
    """

    events: int
    profiles: int
    batch: int = 20
    new_share: float = 0.01
    seed: int = 1
    cover: bool = False

    def file_name(self) -> str:
        """Return the name under which the built bodies are kept."""
        parts = (
            CORPUS_VERSION,
            self.events,
            self.profiles,
            self.batch,
            self.new_share,
            self.seed,
            self.cover,
        )
        return "load-" + "-".join(str(part) for part in parts) + ".bin"


class Corpus:
    """Request bodies, gzipped, with the number of events in each."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @classmethod
    def load(cls, mix: Mix, scratch: Path) -> Self:
        """Return the bodies of `mix`, building them into `scratch` unless they are there already."""
        path = scratch / mix.file_name()
        if not path.exists():
            scratch.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=scratch, delete=False) as file:
                for body, events in _bodies(mix):
                    file.write(_LENGTH.pack(len(body), events))
                    file.write(body)
            Path(file.name).replace(path)
        return cls(path.read_bytes())

    def bodies(self) -> Iterator[tuple[bytes, int]]:
        """Yield every body once, with its number of events."""
        data, at = self._data, 0
        while at < len(data):
            length, events = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size
            yield data[at : at + length], events
            at += length


def _bodies(mix: Mix) -> Iterator[tuple[bytes, int]]:
    rng = random.Random(mix.seed)
    for start in range(0, mix.events, mix.batch):
        count = min(mix.batch, mix.events - start)
        text = ",".join(_event(rng, mix, start + number) for number in range(count))
        yield igzip.compress(f'{{"batch":[{text}]}}'.encode(), compresslevel=1, mtime=0), count


def _event(rng: random.Random, mix: Mix, number: int) -> str:
    person = rng.randrange(mix.profiles)
    draw = rng.random()
    new = rng.random() < mix.new_share
    signed_in = rng.random() < SIGNED_IN_SHARE
    if mix.cover:
        person, new = number % mix.profiles, False
        way = number // mix.profiles % COVERING_WAYS
        draw, signed_in = (0.0, 1.0)[way > 0], way == 1
    anonymous = _uuid(rng.getrandbits(128)) if new else f"a-{person:09d}"
    head = f'"messageId":"{_uuid(rng.getrandbits(128))}","anonymousId":"{anonymous}"'
    # A new device is worth something only when it can be linked, so its events are signed in.
    if new or draw < IDENTIFY_SHARE or signed_in:
        head += f',"userId":"u-{person:09d}"'
    if draw < IDENTIFY_SHARE:
        return (
            f'{{"type":"identify",{head},"traits":{{"email":"u-{person:09d}@example.org",'
            f'"plan":"{("basic", "plus", "club")[rng.randrange(3)]}","visits":{rng.randrange(1000)}}}}}'
        )
    if draw < IDENTIFY_SHARE + PAGE_SHARE:
        path = f"/p/{rng.randrange(500)}"
        return f'{{"type":"page",{head},"name":"Product","properties":{{"path":"{path}","title":"Product"}}}}'
    return (
        f'{{"type":"track",{head},"event":"Product Viewed","properties":{{"product_id":"p-{rng.randrange(500)}",'
        f'"price":{rng.randrange(500, 20000) / 100},"currency":"EUR","quantity":{rng.randrange(1, 4)}}},'
        f'"context":{{"locale":"en-GB","page":{{"path":"/p/{rng.randrange(500)}"}}}}}}'
    )


def _uuid(bits: int) -> str:
    return str(uuid.UUID(int=bits, version=4))


@dataclass(slots=True)
class Load:
    """What happened. Answer times of a paced run count from when the request was due, not from when it left."""

    requests: int = 0
    events: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    events_per_second: float = 0.0
    cpu_us_per_event: float = 0.0
    answer_ms: dict[str, float] = field(default_factory=dict)
    statuses: dict[int, int] = field(default_factory=dict)
    reconnects: int = 0


def run_load(
    url: str, write_key: str, corpus: Corpus, *, connections: int = 8, rate: float | None = None
) -> Load:
    """Send the corpus once and return what happened.

    Without `rate` (events per second) each connection sends as soon as its last request is answered.
    With it, requests fall due on a fixed schedule whatever the server does, so a stall shows in the
    answer times of everything that had to wait. 429 and 503 pause all connections for `Retry-After`
    and the body is sent again; `events` counts those answered with 200.
    """
    return uvloop.run(_Run(url, write_key, corpus, rate).play(connections))


class _Run:
    """One run: hands out bodies in order, keeps the schedule, gathers answers."""

    def __init__(self, url: str, write_key: str, corpus: Corpus, rate: float | None) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or "127.0.0.1"
        self.port = parts.port or 80
        basic = base64.b64encode(f"{write_key}:".encode()).decode()
        self.head = (
            f"POST /v1/batch HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nAuthorization: Basic {basic}\r\n"
            "Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: "
        ).encode()
        self.result = Load()
        self.statuses: Counter[int] = Counter()
        self.paused_until = 0.0
        self._bodies = corpus.bodies()
        self._rate = rate
        self._due = 0.0
        self._answer_seconds = array("d")

    async def play(self, connections: int) -> Load:
        started, cpu_started = time.perf_counter(), time.process_time()
        self._due = started
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(self._drive())
        result = self.result
        result.seconds = time.perf_counter() - started
        result.cpu_seconds = time.process_time() - cpu_started
        result.events_per_second = result.events / result.seconds
        result.cpu_us_per_event = result.cpu_seconds / max(1, result.events) * 1e6
        result.statuses = dict(sorted(self.statuses.items()))
        if self._answer_seconds:
            p50, p90, p99, most = (
                np.quantile(np.frombuffer(self._answer_seconds), (0.5, 0.9, 0.99, 1.0)) * 1000
            )
            result.answer_ms = {"p50": float(p50), "p90": float(p90), "p99": float(p99), "max": float(most)}
        return result

    async def _drive(self) -> None:
        """Send bodies over one connection until none is left."""
        connection = await self._connect()
        for body, events in self._bodies:
            due = self._due
            if self._rate is not None:
                self._due = due + events / self._rate
                await _sleep_until(due)
            else:
                due = time.perf_counter()
            while True:
                await _sleep_until(self.paused_until)
                try:
                    status, retry_after = await connection.post(self.head, body)
                except ConnectionError:
                    # The outcome is unknown; the message ids make sending again harmless.
                    self.result.reconnects += 1
                    if self.result.reconnects > RECONNECTS_MAX:
                        raise
                    connection = await self._connect()
                    continue
                self.statuses[status] += 1
                if status not in (429, 503):
                    break
                wait = min(retry_after, RETRY_SECONDS_MAX)
                self.paused_until = max(self.paused_until, time.perf_counter() + wait)
            self._answer_seconds.append(time.perf_counter() - due)
            self.result.requests += 1
            self.result.events += events if status == 200 else 0
        connection.close()

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self.host, self.port)
        return connection


class _Connection(asyncio.Protocol):
    """One keep-alive connection with one request under way; httptools reads the answers."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[tuple[int, float]] | None = None
        self._retry_after = 1.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's, they only behave like them.
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)

    def post(self, head: bytes, body: bytes) -> "asyncio.Future[tuple[int, float]]":
        """Send one request; the future gives status and `Retry-After`, or raises ConnectionError."""
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self._answer.set_exception(ConnectionResetError("the server closed the connection"))
        else:
            self._transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        return self._answer

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after" and value.isdigit():
            self._retry_after = float(value)

    def on_message_complete(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.set_result((self._parser.get_status_code(), self._retry_after))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError(f"connection lost: {error}"))


async def _sleep_until(moment: float) -> None:
    wait = moment - time.perf_counter()
    if wait > 0:
        await asyncio.sleep(wait)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--write-key", required=True)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--profiles", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--new-share", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--rate", type=float, help="events per second; without it, as fast as answers come")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "profilelake-load")
    options = parser.parse_args()
    mix = Mix(options.events, options.profiles, options.batch, options.new_share, options.seed)
    started = time.perf_counter()
    corpus = Corpus.load(mix, options.scratch)
    print(f"bodies ready after {time.perf_counter() - started:.1f} s", file=sys.stderr)
    result = run_load(
        options.url, options.write_key, corpus, connections=options.connections, rate=options.rate
    )
    print(json.dumps(asdict(result), indent=2))
    return 0 if result.events == mix.events else 1


if __name__ == "__main__":
    sys.exit(main())
