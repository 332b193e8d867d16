"""What one request may be, and what one process takes at a time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

UnknownKey = Literal["reject", "accept_and_drop"]


@dataclass(frozen=True, slots=True)
class CollectLimits:
    """Limits and choices of the tracking API. Above them requests are refused, never cut."""

    body_bytes_max: int = 4 * 1024 * 1024
    """Bytes of one body, as received and decompressed. SDKs cut batches at 500 kB, and real ones pass it."""
    discard_bytes_max: int = 16 * 1024 * 1024
    """Bytes of a body too large that are read to the end, since a client that is still sending when the
    connection closes sees no answer. Above it the connection is closed."""
    pending_bytes_max: int = 256 * 1024 * 1024
    """Bytes of all bodies that arrive in pieces at the same time; above it requests are told to retry."""
    inflate_ratio_max: int = 200
    """How many times larger than its gzip form a body may be. Batches of events reach about 60."""
    inflate_free_bytes: int = 1024 * 1024
    """Up to here the ratio does not count: small bodies of few different bytes pass any ratio."""
    batch_events_max: int = 10_000
    """Items of one batch: four times what is documented of the interface we follow. There a batch above
    2,500 loses what is too much; here it is taken whole, or refused whole."""
    tolerant_bytes_max: int = 1024 * 1024
    """Bytes of a body that only the tolerant parser can take. It is ten times slower, and no SDK that needs
    it sends more than 500 kB."""
    answer_seconds_max: float = 8.0
    """How long a sender waits for the log; then it is told to send again. SDKs hang up after 10 to 15 s,
    and one that hangs up learns no Retry-After."""
    unknown_key: UnknownKey = "reject"
    """What a write key gets that certainly does not exist: 401, or 200 with the events dropped and counted."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks (such as `10.0.0.0/8`) whose `X-Forwarded-For` is believed. None by default."""
    processes: int = 1
    """Processes that share what a source may send per second."""
    public_url: str = ""
    """Where browsers reach us, as they are told; "" takes the Host header of their request."""
    browser_bundles: Path | None = None
    """Directory of the browser SDKs that are served; None serves none."""
