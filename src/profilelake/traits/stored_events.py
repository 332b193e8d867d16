"""Events that steps keep whole, in the online state: per set and day, and per set which days there are."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from profilelake.state.store import Db, Tx
from profilelake.traits.partials import CutEvent, Numbered
from profilelake.traits.steps import DAY_MICROS, Family

_ZERO: Final = 1 << 31
"""Added to a day, so that days before 1970 have keys too."""
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[tuple[int, int, str, str, str, str]]).decode
_decode_days: Final = msgspec.msgpack.Decoder(list[int]).decode
_Kept = tuple[int, int, str, str, str, str]
"""The number of a step, and the fields of a `CutEvent`."""


def add_events(
    tx: Tx, workspace: str, events: Mapping[tuple[bytes, int], Sequence[CutEvent]], steps: Sequence[Numbered]
) -> None:
    """Add events to those that sets have; days that no window may ask for any more go."""
    if not events:
        return
    horizons = {number: step.horizon for number, step in steps if step.family is Family.EVENTS}
    added: dict[bytes, dict[int, list[_Kept]]] = {}
    newest = 0
    for (key, number), cut in events.items():
        newest = max(newest, cut[-1].at)
        days = added.setdefault(key, {})
        for one in cut:
            kept = (number, one.at, one.name, one.source_id, one.properties, one.context)
            days.setdefault(one.at // DAY_MICROS, []).append(kept)
    oldest = _oldest(horizons.values(), newest)
    known = tx.decoded(workspace, Db.STEP_EVENT, sorted(added), _decode_days)
    there = [_key(key, day) for key, days in added.items() for day in days]
    before = tx.decoded(workspace, Db.STEP_EVENT, sorted(there), _decode)
    written: list[tuple[bytes, bytes]] = []
    for key, days in added.items():
        left = set(known.get(key, ()))
        for day, more in days.items():
            place = _key(key, day)
            standing = [one for one in (*before.get(place, ()), *more) if one[0] in horizons]
            if standing and (oldest is None or day >= oldest):
                left.add(day)
                written.append((place, _encode(sorted(standing))))
        for day in [day for day in left if oldest is not None and day < oldest]:
            tx.delete(workspace, Db.STEP_EVENT, _key(key, day))
            left.discard(day)
        written.append((key, _encode(sorted(left))))
    tx.put_many(workspace, Db.STEP_EVENT, written)


def read_events(
    tx: Tx, workspace: str, sets: Sequence[bytes], at: int, steps: Sequence[Numbered]
) -> dict[tuple[bytes, int], list[CutEvent]]:
    """Return the events of steps that sets have, as far back as the steps may look."""
    horizons = {number: step.horizon for number, step in steps if step.family is Family.EVENTS}
    if not horizons:
        return {}
    oldest = _oldest(horizons.values(), at)
    known = tx.decoded(workspace, Db.STEP_EVENT, sets, _decode_days)
    asked = [_key(key, day) for key, days in known.items() for day in days if oldest is None or day >= oldest]
    found: dict[tuple[bytes, int], list[CutEvent]] = {}
    # Sorted by set and day: so are the events of a step.
    for place, kept in sorted(tx.decoded(workspace, Db.STEP_EVENT, asked, _decode).items()):
        for number, when, name, source, properties, context in kept:
            if number in horizons:
                event = CutEvent(when, name, source, properties, context)
                found.setdefault((place[:-4], number), []).append(event)
    return found


def _oldest(horizons: Iterable[int | None], newest: int) -> int | None:
    """Return the first day that any step may look at, None where one looks at all."""
    far = 0
    for horizon in horizons:
        if horizon is None:
            return None
        far = max(far, horizon)
    return (newest - far) // DAY_MICROS


def _key(key: bytes, day: int) -> bytes:
    return key + (day + _ZERO).to_bytes(4, "big")
