"""Records of rows as the state keeps them, packed and unpacked for many at once.

A record holds rows of some layouts and spells out the values they name, so it says everything itself: what was
said of somebody goes with the record, and no text outlives the last row that names it. All of it is whole words:

    rows of each layout and number of texts (four bytes each, four of them) | rows, layout after layout
    | digests of texts | lengths of texts, four bytes each | texts
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from profilelake.kernels.json_paths import Longs
from profilelake.kernels.siphash import Words, to_bytes
from profilelake.traits.merging import distinct, starts_of, words_of
from profilelake.traits.partials import Records

LAYOUTS_MAX: Final = 3
_HEAD: Final = 2


class Placed(NamedTuple):
    """Rows of one layout, each with the place of the record it lies in, ascending."""

    places: npt.NDArray[np.integer]
    rows: Records


def unpacked(
    layouts: Sequence[np.dtype[np.void]], records: Sequence[bytes]
) -> tuple[list[Placed], Mapping[bytes, bytes]]:
    """Return the rows of each layout in records, and the texts of all values, by digest."""
    words = np.frombuffer(b"".join(records), dtype=np.uint64)
    sizes = np.fromiter(map(len, records), dtype=np.int64, count=len(records)) // 8
    at = np.cumsum(sizes) - sizes
    counts = words[np.stack([at, at + 1], axis=1)].view(np.uint32).astype(np.int64)
    numbers = np.arange(len(records), dtype=np.int32)
    at = at + _HEAD
    parts = []
    for place, layout in enumerate(layouts):
        count, width = counts[:, place], counts[:, place] * (layout.itemsize // 8)
        parts.append(Placed(np.repeat(numbers, count), words[_ragged(at, width)].view(layout)))
        at = at + width
    return parts, _texts(words, at, counts[:, LAYOUTS_MAX])


def packed(count: int, parts: Sequence[Placed], spelt: Callable[[bytes], bytes]) -> list[bytes]:
    """Return so many records, each with the rows of its place; `spelt` gives the text of a digest."""
    counts = [np.bincount(part.places, minlength=count) for part in parts]
    widths = [n * (part.rows.itemsize // 8) for n, part in zip(counts, parts, strict=True)]
    named = _Named(count, parts, spelt)
    sizes = _HEAD + np.sum(widths, axis=0, dtype=np.int64) + named.words
    starts = np.cumsum(sizes) - sizes
    words = np.zeros(int(sizes.sum()), dtype=np.uint64)
    head = words.view(np.uint32)
    at = starts + _HEAD
    for place, (part, width) in enumerate(zip(parts, widths, strict=True)):
        head[2 * starts + place] = counts[place]
        words[_ragged(at, width)] = words_of(part.rows).reshape(-1)
        at = at + width
    head[2 * starts + LAYOUTS_MAX] = named.counts
    named.write(words, at)
    data = words.tobytes()
    ends = (8 * (starts + sizes)).tolist()
    return [data[start:stop] for start, stop in zip((8 * starts).tolist(), ends, strict=True)]


class _Named:
    """The texts that each record has to spell out."""

    def __init__(self, count: int, parts: Sequence[Placed], spelt: Callable[[bytes], bytes]) -> None:
        naming = [part for part in parts if "high" in (part.rows.dtype.names or ())]
        # No digest begins with a word of zeros, rows that name no value do.
        naming = [
            Placed(part.places[part.rows["high"] != 0], part.rows[part.rows["high"] != 0]) for part in naming
        ]
        high = np.concatenate([np.zeros(0, np.uint64), *(part.rows["high"] for part in naming)])
        low = np.concatenate([np.zeros(0, np.uint64), *(part.rows["low"] for part in naming)])
        first, ranks = distinct(high, low)
        self._digests: Words = np.stack([high[first], low[first]], axis=1)
        texts = [spelt(digest) for digest in to_bytes(self._digests.byteswap())]
        self._lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        self._data = np.frombuffer(b"".join(texts), dtype=np.uint8)
        places = np.concatenate([np.zeros(0, np.int64), *(part.places for part in naming)])
        pairs = np.sort(places * max(1, len(texts)) + ranks)
        pairs = pairs[starts_of(pairs)]
        self._places, self._which = np.divmod(pairs, max(1, len(texts)))
        self.counts: Longs = np.bincount(self._places, minlength=count)
        used = np.bincount(self._places, self._lengths[self._which], minlength=count).astype(np.int64)
        self._used = (used + 7) // 8
        self.words: Longs = 2 * self.counts + (self.counts + 1) // 2 + self._used

    def write(self, words: Words, at: Longs) -> None:
        """Write the texts of each record from a place on."""
        words[_ragged(at, 2 * self.counts)] = self._digests[self._which].reshape(-1)
        at = at + 2 * self.counts
        lengths = self._lengths[self._which]
        words.view(np.uint32)[_ragged(2 * at, self.counts)] = lengths
        at = at + (self.counts + 1) // 2
        begins = np.cumsum(self._lengths) - self._lengths
        to = _texts_at(8 * at, self.counts, lengths)
        words.view(np.uint8)[_ragged(to, lengths)] = self._data[_ragged(begins[self._which], lengths)]


def _texts(words: Words, at: Longs, counts: Longs) -> dict[bytes, bytes]:
    """Return the texts that records spell out from a place on; each once."""
    digests = words[_ragged(at, 2 * counts)].reshape(-1, 2)
    at = at + 2 * counts
    lengths = words.view(np.uint32)[_ragged(2 * at, counts)].astype(np.int64)
    starts = _texts_at(8 * (at + (counts + 1) // 2), counts, lengths)
    first, _ = distinct(digests[:, 0], digests[:, 1])
    data = memoryview(words.view(np.uint8))  # type: ignore[arg-type]
    texts = [
        bytes(data[start : start + length])
        for start, length in zip(starts[first].tolist(), lengths[first].tolist(), strict=True)
    ]
    return dict(zip(to_bytes(digests[first].byteswap()), texts, strict=True))


def _texts_at(at: Longs, counts: Longs, lengths: Longs) -> Longs:
    """Return where each text stands: from `at` on those of a record follow each other."""
    before = np.concatenate([[0], np.cumsum(lengths)])
    records = np.cumsum(counts) - counts
    starts: Longs = np.repeat(at - before[records], counts) + before[:-1]
    return starts


def _ragged(starts: Longs, lengths: Longs) -> Longs:
    """Return the numbers from each start on, as many as its length says, one after the other."""
    before = np.cumsum(lengths) - lengths
    numbers: Longs = np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)
    return numbers
