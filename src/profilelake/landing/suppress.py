"""The judge over suppressed people: none of their events lands, whatever collect has let through.

`semantics.suppression` says whom an event names; accepted events are judged here by the ids of their
identifiers, whole columns at a time. The list is read after the records were, so what was received
after somebody was suppressed is always judged by a list that names him.
"""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.eventlog import Flags, Kind, Record
from profilelake.kernels import siphash
from profilelake.landing._bodies import Damaged, unpack
from profilelake.landing._documents import envelope_of
from profilelake.landing._identifier_ids import ident_hashes
from profilelake.landing.parse import IDENTIFIERS, Parsed
from profilelake.landing.requests import batches_of, left_of
from profilelake.semantics.events import event_lines
from profilelake.semantics.identifiers import Identifier, ident_id, normalised, normaliser_of
from profilelake.semantics.rules import COLLECTIONS, Collection, IdentityRules
from profilelake.semantics.suppression import (
    PREVIOUS_ID_TYPES,
    Name,
    names,
    names_anywhere,
    read,
    withhold,
)

Listed: TypeAlias = Callable[[], tuple[int, AbstractSet[bytes]]]
"""Returns who is suppressed now, as ident ids, and a number that changes whenever they do.

Raises `Unavailable` when that cannot be known: then nothing lands."""
_Mask: TypeAlias = npt.NDArray[np.bool_]

_PACKED: Final = Flags.GZIP | Flags.ZSTD


def nobody() -> tuple[int, AbstractSet[bytes]]:
    """Return the list of a workspace that suppresses nobody."""
    return 0, frozenset()


class Suppression:
    """Takes the events of suppressed people out of what lands. One per workspace."""

    def __init__(self, key: bytes, rules: IdentityRules, listed: Listed) -> None:
        """Judge by the list that `listed` returns; `key` is the identifier key of the workspace."""
        self._key = key
        self._rules = rules
        self._listed = listed
        self._version = -1
        self._ids: AbstractSet[bytes] = frozenset()
        self._first_words = np.empty(0, np.uint64)

    def judge(self, parsed: Parsed) -> Parsed:
        """Return what is left of parsed records; what is not adds to their count of suppressed events.

        Raises:
            Unavailable: who is suppressed cannot be read.
        """
        self._look()
        if not self._ids:
            return parsed
        gone, failed_gone = self._of_events(parsed), self._of_failed(parsed.failed)
        suppressed = int(gone.sum()) + int(failed_gone.sum())
        if not suppressed:
            return parsed
        names_kept = parsed.identifiers.filter(
            pa.array(~gone[parsed.identifiers.column("row").to_numpy()], pa.bool_())
        )
        row_of = (np.cumsum(~gone) - 1).astype(np.int32)
        moved = pa.array(row_of[names_kept.column("row").to_numpy()], pa.int32())
        return replace(
            parsed,
            events=parsed.events.filter(pa.array(~gone)),
            identifiers=names_kept.set_column(0, IDENTIFIERS.field(0), moved),
            failed=left_of(parsed.failed, ~failed_gone),
            suppressed=parsed.suppressed + suppressed,
        )

    def without_suppressed(self, record: Record) -> tuple[Record, int]:
        """Return a record whose body may be kept as a whole, and how many events it counts no more.

        It is for records that cannot be parsed for a fault of ours, and takes its time. Raises as above.
        """
        self._look()
        taken = bool(record.flags & Flags.SUPPRESSED)
        if not self._ids and not taken:
            return record, 0
        try:
            body = unpack(record)
        except Damaged:
            return record, 0
        if record.kind is Kind.LINES:
            lines = event_lines(body)
            kept = [
                line
                for line in lines
                if not self._names_listed(names(read(line), None, None, self._rules, record.source_id))
            ]
            body, gone = b"\n".join(kept), len(lines) - len(kept)
        else:
            withheld = withhold(
                body,
                envelope_of(record).type,
                self._rules,
                self._is_listed,
                source_id=record.source_id,
                again=taken,
            )
            body, gone = (body, 0) if withheld is None else (withheld.body, withheld.events)
        gone = min(gone, record.events)
        if not gone:
            return record, 0
        return record._replace(body=body, flags=record.flags & ~_PACKED, events=record.events - gone), gone

    # ---- who is suppressed -------------------------------------------------------------------

    def _look(self) -> None:
        version, ids = self._listed()
        if version != self._version:
            self._version, self._ids = version, ids
            words = np.frombuffer(b"".join(ids), np.uint64).reshape(-1, 2)
            self._first_words = np.unique(words[:, 0])

    def _is_listed(self, collection: Collection, identifier: Identifier) -> bool:
        return ident_id(self._key, collection, identifier) in self._ids

    def _names_listed(self, found: Iterable[Name]) -> bool:
        return any(self._is_listed(collection, identifier) for collection, identifier in found)

    def _are_listed(self, ids: siphash.Words) -> _Mask:
        """Tell which ids are on the list: the first half of the hash finds the few to look up whole."""
        if not self._first_words.size or not len(ids):
            return np.zeros(len(ids), np.bool_)
        place = np.searchsorted(self._first_words, ids[:, 0])
        place[place == self._first_words.size] = 0
        listed: _Mask = self._first_words[place] == ids[:, 0]
        candidates = np.flatnonzero(listed)
        whole = siphash.to_bytes(ids[candidates])
        listed[candidates] = [one in self._ids for one in whole]
        return listed

    # ---- what they have sent -----------------------------------------------------------------

    def _of_events(self, parsed: Parsed) -> _Mask:
        events = parsed.events
        gone = np.zeros(events.num_rows, np.bool_)
        self._mark(gone, parsed.identifiers)
        previous = events.column("previous_id")
        if previous.null_count < events.num_rows:
            there = pc.is_valid(previous).combine_chunks()
            values = previous.filter(there)
            rows = np.flatnonzero(there)
            for kind in PREVIOUS_ID_TYPES:
                kinds = pa.chunked_array([pa.array([kind] * len(rows), pa.string())])
                written = self._written(kind, values)
                gone[rows[self._are_listed(ident_hashes(self._key, "users", kinds, written))]] = True
        return gone

    def _written(self, kind: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return user ids as identifiers are written: mostly as they were sent."""
        if normaliser_of(self._rules, "users", kind) == "none":
            return values
        texts = [normalised(self._rules, "users", kind, value) for value in values.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])

    def _of_failed(self, failed: pa.Table) -> _Mask:
        """Judge what is kept as it was sent: every place counts in which an identifier may stand."""
        gone = np.zeros(failed.num_rows, np.bool_)
        found = [
            (row, COLLECTIONS.index(collection), identifier.type, identifier.value)
            for row, (raw, batch) in enumerate(
                zip(failed.column("raw").to_pylist(), batches_of(failed), strict=True)
            )
            for collection, identifier in self._names_of_failed(raw, batch)
        ]
        columns = zip(*found, strict=True) if found else ([] for _ in IDENTIFIERS)
        arrays = [pa.array(list(v), f.type) for v, f in zip(columns, IDENTIFIERS, strict=True)]
        self._mark(gone, pa.table(arrays, schema=IDENTIFIERS))
        return gone

    def _names_of_failed(self, raw: bytes | None, batch: str | None) -> set[Name]:
        root = read(batch.encode()) if batch else None
        context = root.get("context") if isinstance(root, dict) else None
        return names_anywhere(read(raw or b""), context if isinstance(context, dict) else None, self._rules)

    def _mark(self, gone: _Mask, identifiers: pa.Table) -> None:
        for number, collection in enumerate(COLLECTIONS):
            mine = identifiers.filter(pc.equal(identifiers.column("collection"), number))
            ids = ident_hashes(self._key, collection, mine.column("type"), mine.column("value"))
            gone[mine.column("row").to_numpy()[self._are_listed(ids)]] = True
