"""Records put together into requests: in order for each profile, within what a receiver takes at once."""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final
from zlib import crc32

from profilelake.activate.letters import Sent
from profilelake.semantics.destinations import Destination

BODY_BYTES_MAX: Final = 480_000
"""Bytes of one request, below what Segment's batch endpoint takes (500 KB). A record that is larger goes alone."""
_FRAME_BYTES: Final = 400


def packed(
    destination: Destination, told: Iterable[tuple[bytes, list[Sent]]]
) -> list[tuple[int, list[Sent]]]:
    """Return batches with their lanes. All of one profile is in one lane, which is sent one batch at a time."""
    open_batches: dict[int, list[Sent]] = {}
    sizes: dict[int, int] = {}
    done: list[tuple[int, list[Sent]]] = []
    for profile, records in told:
        lane = crc32(profile) % destination.parallel
        for record in records:
            batch = open_batches.setdefault(lane, [])
            size = sizes.get(lane, _FRAME_BYTES) + len(record.body) + 1
            if batch and (len(batch) == destination.batch or size > BODY_BYTES_MAX):
                done.append((lane, batch))
                batch = open_batches[lane] = []
                size = _FRAME_BYTES + len(record.body) + 1
            batch.append(record)
            sizes[lane] = size
    return done + list(open_batches.items())


def batch_key(destination: str, records: Iterable[Sent]) -> str:
    """Return the key of a request: the same whenever the same records are sent together."""
    digest = blake2b(destination.encode(), digest_size=16)
    for record in records:
        digest.update(b"\0" + record.key.encode())
    return f"bat_{digest.hexdigest()}"


def body(destination: Destination, key: str, records: Iterable[Sent]) -> bytes:
    """Return the body of a request."""
    listed = b",".join(record.body for record in records)
    if destination.type == "segment":
        return b'{"batch":[' + listed + b"]}"
    name = destination.name.encode()  # of letters, digits, `_` and `-` only
    return b'{"batch":"' + key.encode() + b'","destination":"' + name + b'","records":[' + listed + b"]}"
