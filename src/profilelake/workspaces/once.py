"""Requests that are carried out once, however often they are sent: what was asked and answered before.

A client that lost an answer sends its request again under the same key, and gets the answer of the
first time instead of a second token or source.
"""

import hashlib
import sqlite3
from collections.abc import Callable
from typing import Final

from profilelake.errors import Invalid, Unavailable

KEPT_SECONDS: Final = 24 * 3600
"""How long a repeated request is known to be one."""
REQUESTS_MAX: Final = 10_000
"""Requests that are remembered at the same time."""

TABLES: Final = """
CREATE TABLE requests (
    key BLOB PRIMARY KEY,
    request BLOB NOT NULL,
    answer TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""


def once(
    connection: sqlite3.Connection, key: str, request: bytes, action: Callable[[], str], now: int
) -> tuple[str, bool]:
    """Run `action` in the caller's transaction unless it was run for this request; return its answer.

    The flag tells that it was, and that the answer is the one of then.

    Raises:
        Invalid: the key was used for another request.
        Unavailable: more requests are remembered than may be.
    """
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    asked = hashlib.sha256(request).digest()
    connection.execute("DELETE FROM requests WHERE created_at < ?", (now - KEPT_SECONDS * 1_000_000,))
    row = connection.execute("SELECT request, answer FROM requests WHERE key = ?", (digest,)).fetchone()
    if row is not None:
        if row[0] != asked:
            raise Invalid(
                "carrying out a request once: its Idempotency-Key was used for another request; give each"
                " request a key of its own"
            )
        return row[1], True
    if connection.execute("SELECT count(*) FROM requests").fetchone()[0] >= REQUESTS_MAX:
        raise Unavailable(
            f"carrying out a request once: {REQUESTS_MAX} are remembered already, the most there may be;"
            " send it without Idempotency-Key, or later",
            retry_after_seconds=60,
        )
    answer = action()
    connection.execute("INSERT INTO requests VALUES (?, ?, ?, ?)", (digest, asked, answer, now))
    return answer, False
