"""What events say at paths, as columns: numbers as doubles, all other values as numbered JSON texts.

Most values come again and again, so what is asked of a value is asked once per distinct text.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profilelake.kernels.json_paths import (
    ASK,
    NULL,
    NUMBER,
    Floats,
    Ints,
    Kinds,
    Longs,
    Trie,
    encode,
    find,
    trie,
)
from profilelake.kernels.json_tape import Bytes
from profilelake.semantics.conditions.tree import Path
from profilelake.semantics.conditions.values import found
from profilelake.semantics.definitions import Json
from profilelake.traits.merging import order_of

TRIES_MAX: Final = 4096
"""Sets of paths, about one per name of events, whose tree of keys is kept."""

Bools: TypeAlias = npt.NDArray[np.bool_]

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


def decode(text: str) -> Json:
    """Return the value of a JSON text, None where it is none: then nothing was said."""
    try:
        value: Json = _decode(text)
    except msgspec.DecodeError:
        return None
    return value


class Coded:
    """JSON texts of events by number: `codes` says which an event has, -1 for none."""

    def __init__(self, codes: Ints, texts: list[str]) -> None:
        self.codes = codes
        self.texts = texts

    def each(self, answer: Callable[[str], bool]) -> Bools:
        """Return what a question about a text is answered for each event; False where there is none."""
        answers = np.zeros(len(self.texts) + 1, dtype=np.bool_)
        answers[:-1] = [answer(text) for text in self.texts]
        return answers[self.codes]  # code -1 is the last answer

    def text(self, event: int) -> str | None:
        """Return the text of an event."""
        code = self.codes[event]
        return None if code < 0 else self.texts[code]


class Slices(NamedTuple):
    """Where the values at one path stand in the texts of a column, and the numbers among them."""

    starts: Ints
    stops: Ints
    numbers: Floats
    order: Longs
    """In which the texts stand in the column."""


class Column:
    """The values at one path in a number of events. Null and missing are the same.

    `numbers` holds the double where `numeric` says that there is one; `present` says where there is any value.
    """

    def __init__(self, data: Bytes, kinds: Kinds, slices: "Slices", asked: Coded) -> None:
        self.present: Bools = (kinds > NULL) & (kinds != ASK) | (asked.codes >= 0)
        self.numeric: Bools = kinds == NUMBER
        self.numbers = slices.numbers
        self._data = data
        self._kinds = kinds
        self._slices = slices
        self._asked = asked

    def replaced(self, where: Bools, by: Coded) -> "Column":
        """Return the column with other values in some events."""
        asked = self._asked
        codes = np.where(asked.codes >= 0, asked.codes + len(by.texts), -1)
        codes = np.where(where, by.codes, codes).astype(np.int32)
        kinds = np.where(where, np.int8(ASK), self._kinds)
        return Column(self._data, kinds, self._slices, Coded(codes, by.texts + asked.texts))

    @cached_property
    def others(self) -> Coded:
        """The texts of all values of which `numbers` has no double."""
        return self._coded(self.present & ~self.numeric)

    @cached_property
    def all(self) -> Coded:
        """The texts of all values, numbers too."""
        return self._coded(self.present)

    def _coded(self, wanted: Bools) -> Coded:
        asked = self._asked
        scanned = wanted & (asked.codes < 0)
        if not scanned.any():
            return asked
        starts, stops, _, order = self._slices
        codes, firsts = encode(self._data, starts, stops, scanned, order)
        data = self._data
        texts = [
            data[start:stop].tobytes().decode()
            for start, stop in zip(starts[firsts].tolist(), stops[firsts].tolist(), strict=True)
        ]
        if asked.texts:
            codes = np.where(asked.codes >= 0, asked.codes + len(texts), codes).astype(np.int32)
        return Coded(codes, texts + asked.texts)


@lru_cache(maxsize=TRIES_MAX)
def _trie(paths: tuple[Path, ...]) -> Trie:
    return trie(paths)


class Texts:
    """A column of JSON objects, in which paths are looked up once for all that ask for them."""

    def __init__(self, column: pa.Array) -> None:
        self._column = column
        buffers = column.buffers()
        offsets = np.frombuffer(buffers[1], dtype=np.int32) if buffers[1] else np.zeros(1, dtype=np.int32)
        self._offsets = offsets[column.offset : column.offset + len(column) + 1]
        data = buffers[2]
        self._data = np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, dtype=np.uint8)

    def columns(self, rows: Longs, paths: Sequence[Path]) -> dict[Path, Column]:
        """Return what lies at some paths in some rows."""
        if not paths:
            return {}
        paths = sorted(set(paths))
        order = order_of(rows)
        seen = find(self._data, self._offsets, rows, order, _trie(tuple(paths)))
        asked = self._asked(rows, seen.kinds, paths)
        columns = {}
        for number, path in enumerate(paths):
            slices = Slices(seen.starts[number], seen.stops[number], seen.numbers[number], order)
            columns[path] = Column(self._data, seen.kinds[number], slices, asked[number])
        return columns

    def _asked(self, rows: Longs, kinds: Kinds, paths: Sequence[Path]) -> list[Coded]:
        """Read in the plain way what the compiled scan leaves: paths through arrays, keys with escapes."""
        codes = np.full(kinds.shape, -1, dtype=np.int32)
        numbers: list[dict[str, int]] = [{} for _ in paths]
        odd = kinds == ASK
        asked, which = (part.tolist() for part in np.nonzero(odd.T))
        texts = self._column.take(pa.array(rows[asked])).to_pylist() if asked else []
        last, whole = -1, None
        for place, path, text in zip(asked, which, texts, strict=True):
            if place != last:
                last, whole = place, decode(text)
            value = found(paths[path], whole)
            if value is not None:
                known = numbers[path]
                codes[path, place] = known.setdefault(_encode(value).decode(), len(known))
        return [Coded(codes[path], list(known)) for path, known in enumerate(numbers)]
