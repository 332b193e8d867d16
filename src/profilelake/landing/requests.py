"""What a failed event keeps of its request, so that it can be read, put right and sent again later."""

from typing import Final, Self

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profilelake.eventlog import Flags, Kind, Record
from profilelake.landing._bodies import Damaged, unpack_gzip, unpack_zstd
from profilelake.semantics.events import EVENT_TYPES, HANDED_DOWN, Envelope, Lines, handed_down
from profilelake.semantics.positions import POSITION_BYTES, Position

RECORD_BYTES: Final = POSITION_BYTES - 4
"""A position without the index: what all events of a record have in common."""
BATCH: Final = "batch"
LINES: Final = "lines"


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the log kept of a request besides its body.

    `kind` is `batch`, `lines`, or the type that the path named. `encoding` is set where `raw` is
    still packed. `lines` is what an import says of its lines.
    """

    kind: str = BATCH
    ip: str = ""
    sent_at: str = ""
    browser: bool = False
    encoding: str = ""
    lines: str = ""

    @classmethod
    def of(cls, record: Record, *, packed: bool) -> Self:
        """Return what is to be kept of a record; `packed` says that its body is kept as it lies in the log."""
        lines = record.kind is Kind.LINES
        encoding = ""
        if packed:
            encoding = "gzip" if record.flags & Flags.GZIP else "zstd" if record.flags & Flags.ZSTD else ""
        return cls(
            kind=record.kind.name.lower(),
            ip="" if lines else _whole(record.ip),
            sent_at="" if lines else _whole(record.sent_at),
            browser=bool(record.flags & Flags.BROWSER),
            encoding=encoding,
            lines=record.ip if lines else "",
        )

    def encode(self) -> str:
        """Return the text of the column `request`."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, text: str | None) -> Self:
        """Read what `encode` wrote; an event that never had a request of its own came in a plain batch."""
        return msgspec.json.decode(text, type=cls) if text else cls()

    def body(self, raw: bytes) -> bytes:
        """Return a body that is kept as it lay in the log, unpacked; of no bytes where that cannot be done."""
        try:
            if self.encoding == "gzip":
                return unpack_gzip(raw)
            return unpack_zstd(raw) if self.encoding == "zstd" else raw
        except Damaged:
            return b""

    def envelope(self, position: Position, source_id: str, events: int = 1) -> Envelope:
        """Return the envelope in which the event at `position` was read."""
        return Envelope(
            received_at=position.received_at,
            region=position.region,
            log_id=position.log_id,
            offset=position.offset,
            source_id=source_id,
            type=next((type for type in EVENT_TYPES if type == self.kind), None),
            events=events,
            ip=self.ip,
            sent_at=self.sent_at,
            browser=self.browser,
            lines=Lines.decode(self.lines) if self.kind == LINES else None,
        )


_ROOT: Final = msgspec.json.Decoder(
    msgspec.defstruct(
        "_Root", [(name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for name in HANDED_DOWN]
    )
)


def batch_of(body: bytes) -> str | None:
    """Return what a batch hands down, as the reference does, of a body that the strict scan has read."""
    root = _ROOT.decode(body)
    members = {name: getattr(root, name) for name in HANDED_DOWN}
    return handed_down(
        {name: bytes(part).decode() for name, part in members.items() if part is not msgspec.UNSET}
    )


def batches_of(failed: pa.Table) -> list[str | None]:
    """Return what the batch of each failed event handed down, also of those that are not a record's first."""
    said: list[str | None] = []
    record, batch = b"", None
    rows = zip(failed.column("position").to_pylist(), failed.column("batch").to_pylist(), strict=True)
    for position, first in rows:
        if position[:RECORD_BYTES] != record:
            record, batch = position[:RECORD_BYTES], None
        batch = first or batch
        said.append(batch)
    return said


def left_of(failed: pa.Table, keep: npt.NDArray[np.bool_]) -> pa.Table:
    """Return some failed events; what a batch handed down moves to the first that is left of its record."""
    said, seen = batches_of(failed), set()
    batches: list[str | None] = []
    for position, batch, stays in zip(
        failed.column("position").to_pylist(), said, keep.tolist(), strict=True
    ):
        record = position[:RECORD_BYTES]
        batches.append(batch if stays and record not in seen else None)
        if stays and batch is not None:
            seen.add(record)
    place = failed.schema.get_field_index("batch")
    moved = failed.set_column(place, failed.schema.field(place), pa.array(batches, pa.string()))
    return moved.filter(pa.array(keep))


def _whole(text: str) -> str:
    """Return a text that a client sent without half surrogate pairs, which no JSON can hold."""
    return text.encode("utf-8", "replace").decode()
