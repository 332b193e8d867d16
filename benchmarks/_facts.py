"""The tables of facts of a shop of any size, made column by column and committed to a real lake.

A person has one user id, one e-mail and one to five devices. For each device there are sets of the device
alone, of device and user, and of these with the e-mail, as a log of visits, sign-ins and identify calls has them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.identity.tables import IDENTIFIER_SETS, IDENTIFIERS, SET_SIGHTINGS
from profilelake.kernels import siphash
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.tables import TableDef
from profilelake.pipeline.publish import ensure_tables
from profilelake.profiles.tables import TRAIT_WRITES
from profilelake.semantics.identifiers import ident_prefix, set_prefix

WORKSPACE: Final = "default"
KEY: Final = bytes(range(16))
START: Final = 1_772_359_210_000_000
DAY: Final = 86_400_000_000
TYPES: Final = ("user_id", "email", "anonymous_id")
EDGES_PER_PERSON: Final = 13.8
EVENTS_PER_PERSON: Final = 17.55
PEOPLE_PER_PART: Final = 200_000
_KINDS: Final = (((2,), 0.6), ((0, 2), 0.95), ((0, 1, 2), 0.7))
"""Which of a person's identifiers a set has, and on how many devices it was seen."""


@dataclass(frozen=True)
class Facts:
    """How much was made."""

    people: int
    sets: int
    edges: int
    events: int
    identifiers: int


def make_facts(lake: Lake, people: int, seed: int, wrong_links: int = 0) -> Facts:
    """Commit the facts about so many people; `wrong_links` sets name two of them, one after the other."""
    ensure_tables(lake, WORKSPACE)
    rng = np.random.default_rng(seed)
    totals = np.zeros(3, dtype=np.int64)
    identifiers: list[pa.Table] = []
    sequence = 0
    for first in range(0, people, PEOPLE_PER_PART):
        part = _Part(rng, first, min(PEOPLE_PER_PART, people - first), wrong_links if first == 0 else 0)
        sequence += 1
        progress = Progress(f"{1:020d}", sequence, {}, {})
        for definition, rows in part.tables():
            lake.table(WORKSPACE, definition).append(definition.shape(rows), progress)
        identifiers.append(part.identifiers())
        totals += part.counts()
    rows = pa.concat_tables(identifiers)
    current = lake.current_table(WORKSPACE, IDENTIFIERS)
    current.replace(IDENTIFIERS.shape(rows), Progress(f"{1:020d}", sequence, {}, {}))
    sets, edges, events = totals.tolist()
    return Facts(people, sets, edges, events, rows.num_rows)


class _Part:
    """Some people, numbered from `first`."""

    def __init__(self, rng: np.random.Generator, first: int, count: int, wrong_links: int) -> None:
        devices = rng.integers(1, 6, count)
        owner = np.repeat(np.arange(count), devices)
        names = [
            [f"user-{first + n}" for n in range(count)],
            [f"person{first + n}@example.com" for n in range(count)],
            [f"{first:08x}-{n:08x}-device" for n in range(len(owner))],
        ]
        self._values = pa.array([name for of_type in names for name in of_type])
        self._types = np.repeat(np.arange(3), [len(of_type) for of_type in names])
        prefixes = [ident_prefix("users", type) for type in TYPES]
        self._ids = siphash.hash_typed(KEY, prefixes, self._types.astype(np.int32), self._values)
        begins = np.cumsum([0, count, count])
        places = (owner, owner, np.arange(len(owner)))
        members, sizes = [], []
        for kind, share in _KINDS:
            seen = np.flatnonzero(rng.random(len(owner)) < share)
            members.append(np.column_stack([begins[one] + places[one][seen] for one in kind]))
            sizes.append(np.full(len(seen), len(kind)))
        if wrong_links:
            chain = np.arange(wrong_links)
            members.append(np.column_stack([chain, count + chain + 1]))
            sizes.append(np.full(wrong_links, 2))
        self._members = np.concatenate([one.ravel() for one in members])
        self._sizes = np.concatenate(sizes)
        self._offsets = np.append(0, np.cumsum(self._sizes)).astype(np.int64)
        self._sets = siphash.set_ids(KEY, set_prefix("users"), self._ids[self._members], self._offsets)
        count = len(self._sizes)
        at = START + rng.integers(0, 30 * DAY, count)
        again = np.flatnonzero(rng.random(count) < 0.3)
        self._set_of = np.append(np.arange(count), again)
        self._first = np.append(at, at[again] + DAY)
        self._events = rng.integers(1, 4, len(self._first))
        self._rng = rng
        self._number = first

    def counts(self) -> npt.NDArray[np.int64]:
        return np.array([len(self._sizes), len(self._members), self._events.sum()])

    def tables(self) -> Iterator[tuple[TableDef, pa.Table]]:
        ids = siphash.to_arrow(self._sets)
        member = pa.StructArray.from_arrays(
            [
                pa.array(TYPES).take(pa.array(self._types[self._members])),
                siphash.to_arrow(self._ids[self._members]),
            ],
            ["type", "ident_id"],
        )
        sets = len(self._sizes)
        seen = self._seen(self._first[:sets], np.arange(sets))
        yield (
            IDENTIFIER_SETS,
            pa.table(
                {
                    "set_id": ids,
                    "collection": pa.repeat(pa.scalar("users"), sets),
                    "identifiers": pa.ListArray.from_arrays(pa.array(self._offsets, pa.int32()), member),
                    **seen,
                }
            ),
        )
        first = self._seen(self._first, np.arange(len(self._first)))
        last = self._seen(self._first + 1000, np.arange(len(self._first)))
        yield (
            SET_SIGHTINGS,
            pa.table(
                {
                    "set_id": ids.take(pa.array(self._set_of)),
                    "day": pc.cast(pa.array((self._first // DAY).astype(np.int32)), pa.date32()),
                    "events": self._events,
                    **{f"first_{name}": column for name, column in first.items()},
                    **{f"last_{name}": column for name, column in last.items()},
                }
            ),
        )
        telling = np.flatnonzero(self._sizes == 3)
        rows = np.repeat(telling, 3)
        names = pa.array(["plan", "name", "city"]).take(pa.array(np.tile(np.arange(3), len(telling))))
        values = pc.binary_join_element_wise('"v', pc.cast(pa.array(rows % 1000), pa.string()), '"', "")
        written = self._seen(self._first[rows], rows)
        yield (
            TRAIT_WRITES,
            pa.table(
                {
                    "set_id": ids.take(pa.array(rows)),
                    "collection": pa.repeat(pa.scalar("users"), len(rows)),
                    "trait": names,
                    "value": values,
                    "timestamp": written["received_at"],
                    **written,
                }
            ),
        )

    def identifiers(self) -> pa.Table:
        first = np.full(len(self._ids), np.iinfo(np.int64).max)
        np.minimum.at(first, self._members, np.repeat(self._first[: len(self._sizes)], self._sizes))
        used = np.flatnonzero(first < np.iinfo(np.int64).max)
        seen = self._seen(first[used], used)
        head = np.ascontiguousarray(self._ids[used]).view(np.uint8).reshape(-1, 16).astype(np.int32)
        return pa.table(
            {
                "ident_id": siphash.to_arrow(self._ids[used]),
                "collection": pa.repeat(pa.scalar("users"), len(used)),
                "type": pa.array(TYPES).take(pa.array(self._types[used])),
                "value": self._values.take(pa.array(used)),
                "source_id": seen["source_id"],
                "first_message_id": seen["message_id"],
                "created_at": seen["received_at"],
                "position": seen["position"],
                "slot": pa.array(head[:, 0] * 256 + head[:, 1]),
            }
        )

    def _seen(self, at: npt.NDArray[np.int64], number: npt.NDArray[np.int64]) -> dict[str, Any]:
        """Return the columns that say when, where and in which message."""
        positions = np.zeros((len(at), 32), dtype=np.uint8)
        positions[:, :8] = at.astype(">i8").view(np.uint8).reshape(-1, 8)
        unique = (number + (self._number << 24)).astype(">i8")
        positions[:, 24:] = unique.view(np.uint8).reshape(-1, 8)
        fixed = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(32), len(at), [None, pa.py_buffer(positions.tobytes())]
        )
        message = pc.binary_join_element_wise(
            "message-", pc.cast(pa.array(unique.astype(np.int64)), pa.string()), ""
        )
        return {
            "position": fixed,
            "received_at": pa.array(at).cast(pa.timestamp("us", tz="UTC")),
            "message_id": message,
            "source_id": pa.repeat(pa.scalar("web"), len(at)),
        }
