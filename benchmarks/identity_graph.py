"""A graph of identifiers of any size, edge by edge, from a seed and without being kept anywhere.

A person has one user id, 1 to 3 e-mails and 1 to 8 devices (one in a thousand up to 400, by a power law);
30 % more edges are redundant, one person in ten shares a device with a neighbour, and three values that
are nobody's ("test@test.com" and the like) meet thousands. Edges come in an order in which those of one
person lie as far apart as the whole graph is long: the worst case for caches, and for order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profilelake.identity.problem import SetColumns
from profilelake.kernels import siphash
from profilelake.kernels._compiled import compiled
from profilelake.semantics.identifiers import ident_prefix

Words = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]
Bytes = npt.NDArray[np.uint8]

TYPES: Final = ("user_id", "email", "anonymous_id")
USER, EMAIL, DEVICE, POISON = 0, 1, 2, 3
NONE: Final = -1
EDGES_PER_PERSON: Final = 8.6
"""Measured: what a person's edges and its share of the rest come to."""
POISON_IDS: Final = 3
POISON_SHARE: Final = 0.01
POISON_DEGREE_MAX: Final = 150_000

_PLACES: Final = 16
"""Places for edges per person: 3 e-mails, 8 devices, 5 redundant ones; about half stay empty."""
_WIDE_EVERY: Final = 1000
_WIDE_PLACES: Final = 392
_TEXT_MAX: Final = 36
_POISON_TEXT: Final = (b"test@test.com", b"none@example.com", b"undefined@example.com")
_U = np.uint64


@dataclass(frozen=True, slots=True)
class Graph:
    """About `edges` edges; the same for the same numbers."""

    edges: int
    seed: int

    @property
    def persons(self) -> int:
        """How many persons the edges are of."""
        return max(2, int(self.edges / EDGES_PER_PERSON))

    def batches(self, rows: int) -> Iterator[tuple[Codes, Words]]:
        """Yield the kinds and the numbers of the two ends of edges, both of shape [n, 2], n up to `rows`."""
        persons = self.persons
        wide = persons // _WIDE_EVERY
        poison = POISON_IDS * min(POISON_DEGREE_MAX, int(POISON_SHARE * self.edges / POISON_IDS))
        places = persons * _PLACES + wide * _WIDE_PLACES + poison
        bits = max(4, int(places - 1).bit_length())
        start = 0
        while start < 1 << bits:
            kinds, numbers = np.empty((rows, 2), dtype=np.int8), np.empty((rows, 2), dtype=np.uint64)
            start, count = _edges(start, bits, places, persons, wide, _U(self.seed), kinds, numbers)
            if count:
                yield kinds[:count], numbers[:count]


def columns(kinds: Codes, numbers: Words) -> tuple[npt.NDArray[np.int32], pa.Array]:
    """Return type code (place in `TYPES`) and text of every end, edge by edge."""
    flat, ends = kinds.ravel(), np.empty(kinds.size + 1, dtype=np.int64)
    data = np.empty(kinds.size * _TEXT_MAX, dtype=np.uint8)
    poison = np.frombuffer(b"".join(text.ljust(_TEXT_MAX) for text in _POISON_TEXT), dtype=np.uint8)
    sizes = np.array([len(text) for text in _POISON_TEXT], dtype=np.int64)
    size = _texts(flat, numbers.ravel(), poison, sizes, data, ends)
    values = pa.StringArray.from_buffers(
        kinds.size, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(data[:size].copy())
    )
    return np.where(flat == POISON, EMAIL, flat).astype(np.int32), values


def hashed(kinds: Codes, numbers: Words, key: bytes) -> tuple[SetColumns, npt.NDArray[np.int32]]:
    """Return edges as sets with the ids of their ends, as they would come from a file."""
    codes, values = columns(kinds, numbers)
    ids = siphash.hash_typed(key, [ident_prefix("users", type) for type in TYPES], codes, values)
    types = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(TYPES))
    offsets = np.arange(0, len(codes) + 1, 2, dtype=np.int64)
    return SetColumns(offsets, types, values, ids, np.empty(0, dtype=np.int64)), codes


@compiled
def _mix(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> _U(30))) * _U(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> _U(27))) * _U(0x94D049BB133111EB)
    return value ^ (value >> _U(31))


@compiled
def _shuffled(place: np.uint64, bits: int, seed: np.uint64) -> np.uint64:
    """Return the place's image under a permutation of `bits` bits: each step can be undone."""
    mask = (_U(1) << _U(bits)) - _U(1)
    half = _U(bits // 2)
    for turn in range(3):
        place = (place * _U(0x9E3779B97F4A7C15) + _mix(seed + _U(turn))) & mask
        place ^= place >> half
    return place


@compiled
def _device(person: np.uint64, number: np.uint64, seed: np.uint64) -> np.uint64:
    """Return the number of a person's device; that of one person in ten is a neighbour's."""
    if number == _U(0) and person & _U(1) and _mix(person ^ _U(0xD1CE) ^ seed) % _U(5) == _U(0):
        person -= _U(1)
    return person << _U(10) | number


@compiled
def _of_person(person: np.uint64, slot: np.uint64, seed: np.uint64) -> tuple[int, int, np.uint64, np.uint64]:
    """Return the kinds and numbers of the ends of an edge at a person's place; no kind, where it is empty."""
    about = _mix(person + seed * _U(0x632BE59BD9B4E019))
    emails, devices = _U(1) + about % _U(3), _U(1) + (about >> _U(8)) % _U(8)
    chance = _mix(about + slot)
    email = person << _U(2) | chance % emails
    if slot < _U(3):
        return (USER if slot < emails else NONE), EMAIL, person, person << _U(2) | slot
    if slot < _U(11):
        number = slot - _U(3)
        device = _device(person, number, seed)
        if number >= devices:
            return NONE, DEVICE, person, device
        if chance % _U(10) < _U(4):
            return EMAIL, DEVICE, email, device
        return USER, DEVICE, person, device
    more = _U(3) * (emails + devices)
    redundant = more // _U(10) + _U((about >> _U(20)) % _U(10) < more % _U(10))
    device = _device(person, (chance >> _U(16)) % devices, seed)
    return (EMAIL if slot - _U(11) < redundant else NONE), DEVICE, email, device


@compiled
def _of_wide(person: np.uint64, number: np.uint64, seed: np.uint64) -> tuple[int, int, np.uint64, np.uint64]:
    """Do the same for one device more of a person that may have very many."""
    share = np.float64(_mix(person ^ seed) >> _U(11)) / 9007199254740992.0
    kind = USER if np.float64(number) < 8.0 / max(share, 0.02) else NONE
    return kind, DEVICE, person, person << _U(10) | number


@compiled
def _edges(
    start: int, bits: int, places: int, persons: int, wide: int, seed: np.uint64, kinds: Codes, numbers: Words
) -> tuple[int, int]:
    """Write edges until the arrays are full or the graph ends; return where to go on, and how many."""
    count, at = 0, start
    regular, extra = persons * _PLACES, wide * _WIDE_PLACES
    while at < np.int64(1) << bits and count < len(kinds):
        place = np.int64(_shuffled(_U(at), bits, seed))
        at += 1
        if place >= places:
            continue
        if place < regular:
            one, two, first, second = _of_person(_U(place // _PLACES), _U(place % _PLACES), seed)
        elif place < regular + extra:
            person, number = divmod(place - regular, _WIDE_PLACES)
            one, two, first, second = _of_wide(_U(person * _WIDE_EVERY), _U(number + 8), seed)
        else:
            number = place - regular - extra
            one, two = USER, POISON
            first, second = _mix(_U(number) ^ seed) % _U(persons), _U(number % POISON_IDS)
        if one == NONE:
            continue
        turned = np.int64(_mix(_U(place) ^ seed) & _U(1))
        kinds[count, turned], kinds[count, 1 - turned] = one, two
        numbers[count, turned], numbers[count, 1 - turned] = first, second
        count += 1
    return at, count


@compiled
def _digits(number: np.uint64, digits: int, data: Bytes, at: int) -> int:
    for place in range(digits - 1, -1, -1):
        data[at + place] = np.uint8(48 + number % _U(10))
        number //= _U(10)
    return at + digits


@compiled
def _texts(kinds: Codes, numbers: Words, poison: Bytes, sizes: Int64s, data: Bytes, ends: Int64s) -> int:
    """Write `user-…`, `p….n@example.com` or 36 hexadecimal digits in groups; return the bytes written."""
    at = 0
    ends[0] = 0
    for row in range(kinds.size):
        kind, number = kinds[row], numbers[row]
        if kind == USER:
            data[at], data[at + 1], data[at + 2], data[at + 3], data[at + 4] = 117, 115, 101, 114, 45
            at = _digits(number, 10, data, at + 5)
        elif kind == EMAIL:
            data[at] = 112
            at = _digits(number >> _U(2), 10, data, at + 1)
            data[at] = 46
            at = _digits(number & _U(3), 1, data, at + 1)
            for place in range(12):
                data[at + place] = (64, 101, 120, 97, 109, 112, 108, 101, 46, 99, 111, 109)[place]
            at += 12
        elif kind == DEVICE:
            word = _mix(number)
            for place in range(36):
                if place == 8 or place == 13 or place == 18 or place == 23:
                    data[at + place] = 45
                    continue
                digit = word & _U(15)
                data[at + place] = np.uint8(48 + digit) if digit < _U(10) else np.uint8(87 + digit)
                word >>= _U(4)
                if place == 17:
                    word = _mix(number ^ _U(0x5DEECE66D))
            at += 36
        else:
            which = np.int64(number)
            for place in range(sizes[which]):
                data[at + place] = poison[which * _TEXT_MAX + place]
            at += sizes[which]
        ends[row + 1] = at
    return at
