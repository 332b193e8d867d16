"""Senders that know what was acknowledged, and what must hold for it in the end."""

import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from command_line import run_process
from served import REQUEST_SECONDS_MAX, WRITE_KEY, Answer, Served, basic

PAUSE_SECONDS = 0.02


def track(message_id: str, text: str = "") -> dict[str, Any]:
    return {"userId": "u1", "event": "Sent", "messageId": message_id, "properties": {"text": text}}


@dataclass
class Senders:
    """Threads that send until the end of the `with` block, each over a connection of its own, trying each
    batch until it is acknowledged, as SDKs do."""

    served: Served
    name: str
    threads: int = 4
    events: int = 5
    text: str = ""
    acknowledged: set[str] = field(default_factory=set)
    tried: set[str] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    retry_after: set[str] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(self.threads)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(REQUEST_SECONDS_MAX)

    def wait_for(self, status: int, count: int = 1, seconds: float = 60) -> None:
        """Return once so many more answers of a status came."""
        wanted = self.statuses[status] + count
        give_up_at = time.monotonic() + seconds
        while self.statuses[status] < wanted:
            assert time.monotonic() < give_up_at, f"{status} not answered: {self.statuses}"
            time.sleep(PAUSE_SECONDS)

    def _send(self, thread: int) -> None:
        number = 0
        connection: http.client.HTTPConnection | None = None
        batch: list[str] = []
        while not self._stop.is_set():
            if not batch:
                batch = [f"{self.name}-{thread}-{number}-{n}" for n in range(self.events)]
                number += 1
                with self._lock:
                    self.tried.update(batch)
            body = json.dumps({"batch": [{"type": "track", **track(one, self.text)} for one in batch]})
            try:
                if connection is None:
                    place = urlsplit(self.served.url)
                    connection = http.client.HTTPConnection(
                        str(place.hostname), place.port, timeout=REQUEST_SECONDS_MAX
                    )
                connection.request("POST", "/v1/batch", body, {"Authorization": basic(WRITE_KEY)})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                with self._lock:
                    self.broken += 1
                if connection is not None:
                    connection.close()
                connection = None
                self._stop.wait(PAUSE_SECONDS)
                continue
            with self._lock:
                self.statuses[answer.status] += 1
                if answer.status == 200:
                    self.acknowledged.update(batch)
                    batch = []
                else:
                    self.retry_after.add(answer.headers.get("Retry-After", ""))
            if answer.status != 200:
                self._stop.wait(PAUSE_SECONDS)
        if connection is not None:
            connection.close()


def check_exactly_once(served: Served, *senders: Senders) -> None:
    """Everything acknowledged is in the lake once, and nothing else but what was tried."""
    status = served.committed()
    assert status["balanced"], status
    assert (status["in_flight"], status["failed"]) == (0, 0), status
    # Asked in a process of its own, which leaves nothing open on a disk that is to be unmounted.
    query = "SELECT message_id, count(*) AS n FROM events GROUP BY message_id"
    ran = run_process("sql", "--dir", served.directory, "--json", query)
    assert ran.code == 0, ran.err
    rows = ran.json
    ids = {row["message_id"] for row in rows}
    assert all(row["n"] == 1 for row in rows), "doubled"
    acknowledged = set().union(*(each.acknowledged for each in senders))
    assert not acknowledged - ids, "lost"
    assert not ids - set().union(*(each.tried for each in senders))


def resident_bytes(process: int) -> int:
    """Return the memory that a process holds now."""
    words = Path(f"/proc/{process}/status").read_text().split()
    return int(words[words.index("VmRSS:") + 1]) * 1024


def refused(answer: Answer, status: int, reason: str) -> None:
    """An answer that SDKs try again later, with its reason."""
    assert (answer.status, answer.json["reason"]) == (status, reason), answer
    assert int(answer.headers["retry-after"]) >= 1
