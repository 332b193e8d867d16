"""Position: the one total order of facts."""

import hashlib
from dataclasses import dataclass
from typing import Final, Self

POSITION_BYTES: Final = 32


def region_code(region: str) -> bytes:
    """Return the four bytes that stand for `region` inside a position.

    Any fixed order between regions will do, so a digest keeps the width fixed whatever the name.
    """
    return hashlib.sha256(region.encode()).digest()[:4]


@dataclass(frozen=True, slots=True)
class Position:
    """Where a fact stands in the total order: `(received_at, region, log_id, offset, index)`.

    `received_at` is in microseconds since 1970 UTC. `log_id` (16 lower hex digits) names one
    incarnation of one writer; `offset` is the byte offset of the record in that log; `index` is
    the place of the event inside the record (a batch is one record). `to_bytes` is big-endian
    throughout, so comparing the bytes compares the positions, in any engine.
    """

    received_at: int
    region: str
    log_id: str
    offset: int
    index: int

    def to_bytes(self) -> bytes:
        """Return the 32 bytes stored in `position` columns: 8 time, 4 region, 8 log, 8 offset, 4 index."""
        return (
            self.received_at.to_bytes(8, "big")
            + region_code(self.region)
            + bytes.fromhex(self.log_id)
            + self.offset.to_bytes(8, "big")
            + self.index.to_bytes(4, "big")
        )

    @classmethod
    def from_bytes(cls, position: bytes, region: str) -> Self:
        """Return the position that these bytes stand for; `region` is the name behind its code."""
        return cls(
            received_at=int.from_bytes(position[:8], "big"),
            region=region,
            log_id=position[12:20].hex(),
            offset=int.from_bytes(position[20:28], "big"),
            index=int.from_bytes(position[28:], "big"),
        )

    def __lt__(self, other: Self) -> bool:
        return self.to_bytes() < other.to_bytes()
