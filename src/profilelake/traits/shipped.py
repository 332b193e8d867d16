"""Partials as rows that go from one task to another: a record for each set, in no order.

The records are those of the online state. Single events of steps with a window have none: partials that are
shipped were folded for one time, and then there are none.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from profilelake.errors import Internal
from profilelake.kernels import siphash
from profilelake.state.computed import COUNTS, NUMBERS, VALUES
from profilelake.traits.merging import merged, ranked, sizes_of, starts_of
from profilelake.traits.partials import CutEvent, Partials, Rows
from profilelake.traits.stored_rows import Placed, packed, unpacked

SHIPPED: Final = pa.schema(
    [("set_id", pa.binary(siphash.HASH_BYTES)), ("rows", pa.binary()), ("events", pa.binary())]
)
"""What the events of a set come to; several rows of one set are added up."""
_LAYOUTS: Final = (COUNTS, NUMBERS, VALUES)
_Kept = tuple[int, CutEvent]
"""The number of a step, and an event it keeps."""
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[_Kept]).decode


def shipped(partials: Partials) -> pa.Table:
    """Return partials as rows of `SHIPPED`, one for each set, sorted by set."""
    if len(partials.entries.rows):
        raise Internal("shipping partials: they were folded for any time; only those of one time are shipped")
    parts = [partials.counts, partials.numbers, partials.values]
    kept: dict[bytes, list[_Kept]] = {}
    for (key, number), events in partials.events.items():
        kept.setdefault(key, []).extend((number, one) for one in events)
    with_events = np.frombuffer(b"".join(kept), dtype=np.uint64).reshape(-1, 2)
    sets, places = ranked(np.concatenate([*(part.sets for part in parts), with_events]))
    *of_parts, of_events = np.split(places, np.cumsum([len(part.sets) for part in parts]))
    records = packed(
        len(sets),
        [Placed(of, part.rows) for of, part in zip(of_parts, parts, strict=True)],
        lambda digest: partials.texts[digest].encode(),
    )
    events_of: list[bytes | None] = [None] * len(sets)
    for place, told in zip(of_events.tolist(), kept.values(), strict=True):
        events_of[place] = _encode(told)
    return pa.table([siphash.to_arrow(sets), records, events_of], schema=SHIPPED)


def unshipped(rows: pa.Table) -> Partials:
    """Return the partials that rows of `SHIPPED` tell of, in whatever order they come."""
    if not rows.num_rows:
        return Partials()
    _, places = ranked(siphash.from_arrow(rows.column("set_id")))
    order = np.argsort(places, kind="stable")
    starts = starts_of(places[order])
    nth = np.arange(len(order)) - np.repeat(starts, sizes_of(starts, len(order)))
    # Partials know a set once: the first record of every set, then the second of those that have one, and so on.
    return merged([_once(rows.take(pa.array(order[nth == turn]))) for turn in range(int(nth.max()) + 1)])


def _once(rows: pa.Table) -> Partials:
    """Return the partials of sorted rows, no two of one set."""
    words = siphash.from_arrow(rows.column("set_id"))
    parts, texts = unpacked(_LAYOUTS, rows.column("rows").to_pylist())
    counts, numbers, values = (Rows(words[part.places], part.rows) for part in parts)
    events: dict[tuple[bytes, int], list[CutEvent]] = {}
    for key, (number, event) in _events(rows):
        events.setdefault((key, number), []).append(event)
    return Partials(
        counts=counts,
        numbers=numbers,
        values=values,
        events=events,
        texts={digest: text.decode() for digest, text in texts.items()},
    )


def _events(rows: pa.Table) -> Iterator[tuple[bytes, _Kept]]:
    told = rows.filter(rows.column("events").is_valid())
    keys: Sequence[bytes] = told.column("set_id").to_pylist()
    for key, body in zip(keys, told.column("events").to_pylist(), strict=True):
        for event in _decode(body):
            yield key, event
