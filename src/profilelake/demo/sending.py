"""Sends calls through the official Segment client for Python, unmodified, without losing one.

The client drops a call when its queue is full and reports failed uploads to a callback only, so
whoever wants every call to arrive must pace it and count. That is all this module does.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from profilelake.demo.shop import Call
from profilelake.errors import Invalid, Unavailable

try:
    from segment.analytics import Client
except ImportError:  # pragma: no cover - the extra is installed wherever tests run
    Client = None

# Half of the client's queue of 10,000: after a 429 it puts its batch back, and drops what no longer fits.
QUEUE_CALLS_MAX: Final = 5_000
QUEUE_CALLS_LIMIT: Final = 10_000
STALL_SECONDS_MAX: Final = 60.0
_PAUSE_SECONDS: Final = 0.005
_REPORT_EVERY_CALLS: Final = 200


@dataclass(slots=True)
class Sent:
    """What the client did: calls handed to it, calls it gave up on, and what that cost this process."""

    calls: int = 0
    failed: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    errors: list[str] = field(default_factory=list)

    @property
    def delivered(self) -> int:
        """Return the calls a server answered with success."""
        return self.calls - self.failed

    @property
    def per_second(self) -> float:
        """Return delivered calls per second of wall time."""
        return self.delivered / self.seconds if self.seconds else 0.0

    @property
    def client_bound_per_second(self) -> float:
        """Return the rate one process of the client cannot pass on this machine: its own CPU time per call."""
        return self.calls / self.cpu_seconds if self.cpu_seconds else 0.0


def send(
    calls: Iterable[Call],
    *,
    host: str,
    write_key: str,
    progress: Callable[[int], None],
    check_server: Callable[[], None],
) -> Sent:
    """Hand every call to the client and return when a server has answered for all of them.

    `progress` gets the number of calls answered so far; `check_server` raises when waiting is vain.
    One client with one uploading thread keeps the order of the calls, and so the result, repeatable.

    Raises:
        Unavailable: nothing was answered for `STALL_SECONDS_MAX`.
    """
    if Client is None:
        raise Invalid(
            "sending the demo's calls: the Segment client is not installed; pip install 'profilelake[demo]'"
        )
    sent = Sent()

    def on_error(error: Exception, items: list[dict[str, Any]]) -> None:
        sent.failed += len(items)
        if str(error) not in sent.errors:
            sent.errors.append(str(error))

    client = Client(write_key, host=host, gzip=True, max_queue_size=QUEUE_CALLS_LIMIT, on_error=on_error)
    started, cpu_started = time.perf_counter(), time.process_time()
    waiting = _Waiting(client, sent, progress, check_server)
    for call in calls:
        if sent.calls % _REPORT_EVERY_CALLS == 0:
            waiting.until(QUEUE_CALLS_MAX)
        accepted, _ = getattr(client, call.method)(**call.arguments)
        while not accepted:
            waiting.until(QUEUE_CALLS_MAX)
            accepted, _ = getattr(client, call.method)(**call.arguments)
        sent.calls += 1
    waiting.until(0)
    sent.seconds = time.perf_counter() - started
    sent.cpu_seconds = time.process_time() - cpu_started
    client.shutdown()
    return sent


class _Waiting:
    """Waits for the client's queue to drain, as long as it makes progress."""

    def __init__(
        self, client: Any, sent: Sent, progress: Callable[[int], None], check_server: Callable[[], None]
    ) -> None:
        self._queue = client.queue
        self._sent = sent
        self._progress = progress
        self._check_server = check_server
        self._answered = 0
        self._moved_at = time.perf_counter()

    def until(self, unanswered_max: int) -> None:
        """Return once at most `unanswered_max` calls are still without an answer."""
        while True:
            unanswered = self._queue.unfinished_tasks
            answered = self._sent.calls - unanswered
            now = time.perf_counter()
            if answered != self._answered:
                self._answered, self._moved_at = answered, now
                self._progress(answered)
            if unanswered <= unanswered_max:
                return
            self._check_server()
            if now - self._moved_at > STALL_SECONDS_MAX:
                raise Unavailable(
                    f"sending the demo's calls: no answer for {STALL_SECONDS_MAX:.0f} s with {unanswered} calls open; "
                    f"last error of the client: {self._sent.errors[-1] if self._sent.errors else 'none'}"
                )
            time.sleep(_PAUSE_SECONDS)
