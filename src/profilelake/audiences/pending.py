"""Partials that wait in the state: packed, cut to some steps, given other numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np

from profilelake.kernels.siphash import HASH_BYTES, Words, to_bytes
from profilelake.state.computed import COUNTS, ENTRIES, NUMBERS, VALUES
from profilelake.traits.merging import starts_of
from profilelake.traits.partials import CutEvent, Partials, Rows

_LAYOUTS: Final = {"counts": COUNTS, "numbers": NUMBERS, "values": VALUES, "entries": ENTRIES}
_encode: Final = msgspec.msgpack.Encoder().encode


class _Packed(msgspec.Struct, array_like=True):
    rows: dict[str, tuple[bytes, bytes]]
    events: list[tuple[bytes, int, list[CutEvent]]]
    texts: dict[bytes, str]


_decode: Final = msgspec.msgpack.Decoder(_Packed).decode


def packed(partials: Partials) -> bytes:
    """Return partials as they wait."""
    rows = {name: getattr(partials, name) for name in _LAYOUTS}
    return _encode(
        _Packed(
            {name: (part.sets.tobytes(), part.rows.tobytes()) for name, part in rows.items()},
            [(key, number, list(cut)) for (key, number), cut in partials.events.items()],
            dict(partials.texts),
        )
    )


def unpacked(packed: bytes) -> Partials:
    """Return what `packed` was made of."""
    held = _decode(packed)
    rows: dict[str, Any] = {
        name: Rows(
            np.frombuffer(sets, dtype=np.uint64).reshape(-1, 2), np.frombuffer(values, dtype=_LAYOUTS[name])
        )
        for name, (sets, values) in held.rows.items()
    }
    events = {(key, number): cut for key, number, cut in held.events}
    return Partials(**rows, events=events, texts=held.texts)


def is_empty(partials: Partials) -> bool:
    """Tell whether there is nothing in partials."""
    return not partials.events and not any(len(getattr(partials, name).rows) for name in _LAYOUTS)


def size(partials: Partials) -> int:
    """Return how many rows and events there are in partials."""
    rows = sum(len(getattr(partials, name).rows) for name in _LAYOUTS)
    return rows + sum(map(len, partials.events.values()))


def renumbered(partials: Partials, numbers: Mapping[int, int]) -> Partials:
    """Return the rows of the steps that have a new number, under it.

    The new numbers are in the order of the old ones, so that rows stay sorted.
    """
    old = np.array(sorted(numbers), dtype=np.int64)
    new = np.array([numbers[number] for number in old.tolist()], dtype=np.int64)

    def cut(part: Rows) -> Rows:
        kept = np.isin(part.rows["step"], old)
        rows = part.rows[kept].copy()
        rows["step"] = new[np.searchsorted(old, rows["step"])]
        return Rows(part.sets[kept], rows)

    rows = {name: cut(getattr(partials, name)) for name in _LAYOUTS}
    events = {
        (key, numbers[number]): cut for (key, number), cut in partials.events.items() if number in numbers
    }
    return replace(partials, **rows, events=events)  # type: ignore[arg-type]  # fields by name have one type to mypy


def of_steps(partials: Partials, numbers: frozenset[int]) -> Partials:
    """Return the rows of some steps."""
    return renumbered(partials, {number: number for number in numbers})


def sets_of(partials: Partials) -> set[bytes]:
    """Return the sets that have rows."""
    found = {key for key, _ in partials.events}
    for name in _LAYOUTS:
        sets: Words = getattr(partials, name).sets
        if len(sets):
            # Rows of a set stand together.
            found.update(to_bytes(sets[starts_of(*sets.T)]))
    return found


def parts(partials: Partials, sets_max: int) -> Iterator[Partials]:
    """Yield partials in parts of at most so many sets each."""
    keys = sorted(sets_of(partials))
    if len(keys) <= sets_max:
        yield partials
        return
    rows = {name: getattr(partials, name) for name in _LAYOUTS}
    places = {name: _as_bytes(part.sets) for name, part in rows.items()}
    ordered = np.array(keys, dtype=f"S{HASH_BYTES}")
    for start in range(0, len(keys), sets_max):
        mine = ordered[start : start + sets_max]
        chosen = {name: np.isin(places[name], mine) for name in rows}
        cut: dict[str, Any] = {
            name: Rows(part.sets[chosen[name]], part.rows[chosen[name]]) for name, part in rows.items()
        }
        named = set(keys[start : start + sets_max])
        events = {place: events for place, events in partials.events.items() if place[0] in named}
        yield Partials(**cut, events=events, texts=_texts(partials, cut))


def _as_bytes(sets: Words) -> np.ndarray[Any, np.dtype[np.bytes_]]:
    # Trailing zero bytes are cut off here as in what they are compared with.
    return np.ascontiguousarray(sets).view(f"S{HASH_BYTES}").reshape(-1)


def _texts(partials: Partials, cut: Mapping[str, Rows]) -> dict[bytes, str]:
    digests: set[bytes] = set()
    for name in ("values", "entries"):
        rows = cut[name].rows
        pairs = np.column_stack([rows["high"], rows["low"]]).astype(">u8")
        digests.update(to_bytes(np.unique(pairs, axis=0)))
    return {digest: text for digest, text in partials.texts.items() if digest in digests}
