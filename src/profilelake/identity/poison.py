"""Identifiers that meet too many others, such as `userId: "undefined"`: found as sets come in.

The meaning is `semantics.facts.quarantined`. Counting who met whom for everybody would cost more than
resolving, so an identifier is looked at only when the number of its sets says that it may have
passed the limit; those that came near are kept in the state (`Db.QUARANTINE`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from profilelake.identity.facts import Standing
from profilelake.kernels.siphash import HASH_BYTES
from profilelake.state.records import QuarantineRecord, SetRecord, decode_quarantine, encode
from profilelake.state.store import Db
from profilelake.state.working import Working

PART_KEYS: Final = 10_000
"""Keys that are looked at together where all are."""
NEVER: Final = 1 << 62
"""`again_at` of an identifier that need not be counted again."""


class _Degree(NamedTuple):
    """How many others of one type an identifier met in sets that count for that."""

    type: str
    counted: int


class Watch:
    """The identifiers of a workspace that came near the limit, and which of them link nobody.

    Held in memory are those whose degree was counted. That a set with several values of one type may
    raise a degree by more than one is noted in the state alone (`extra`).
    """

    def __init__(
        self,
        records: dict[bytes, QuarantineRecord],
        held: Standing,
        untrusted: frozenset[str],
        *,
        noted: bool,
    ) -> None:
        """Go on from counted records; sources in `untrusted` are open to strangers.

        `noted`: the state has records beside these.
        """
        self._records = records
        self._active = {ident for ident, record in records.items() if record.active}
        self._held = held
        self._untrusted = untrusted
        self._noted = noted

    @classmethod
    def load(cls, work: Working, held: Standing, untrusted: frozenset[str]) -> "Watch":
        """Read what the state knows."""
        records = {}
        noted = False
        for ident, value in work.tx.items(work.workspace, Db.QUARANTINE):
            record = decode_quarantine(value)
            if record.position:
                records[ident] = record
            noted = True
        return cls(records, held, untrusted, noted=noted)

    @classmethod
    def recount(cls, work: Working, held: Standing, untrusted: frozenset[str], *, wide: bool) -> "Watch":
        """Look at everybody again, under another limit; `wide`: nobody noted sets with several values of a type."""
        if held.rules.degree_max is None:
            work.tx.clear(work.workspace, Db.QUARANTINE)
            return cls({}, held, untrusted, noted=False)
        watch = cls.load(work, held, untrusted)
        if wide:
            for part in _parts(work.tx.keys(work.workspace, Db.SET)):
                work.load_sets(part)
                work.load_idents(ident for key in part for ident in split(work.sets[key].idents))
                for key in part:
                    watch.note_wide(work, work.sets[key])
        counted = set(watch.watched())
        for part in _parts(work.tx.keys(work.workspace, Db.IDENT)):
            watch.look(work, part, counted.intersection(part))
        return watch

    def trust(self, untrusted: frozenset[str]) -> None:
        """Count from now on with these sources open to strangers."""
        self._untrusted = untrusted

    def watched(self) -> list[bytes]:
        """Return the identifiers whose degree was counted."""
        return sorted(self._records)

    def quarantined(self) -> set[bytes]:
        """Return the identifiers that link nobody: by decision, or by their degree and not released."""
        return (self._held.quarantined | self._active) - self._held.released

    def meet(
        self, work: Working, met: Sequence[SetRecord], moved: Sequence[SetRecord], fresh: set[bytes]
    ) -> set[bytes]:
        """Look at the identifiers of sets; return those whose quarantine changed.

        `met` sets became known or were looked at again, and `fresh` are the identifiers that nothing but
        these contains; sets with several values of one type must have been told to `note_wide` before.
        `moved` are those of them that may have another first event, of a source trusted otherwise.
        """
        most = self._held.rules.degree_max
        if most is None:
            return set()
        members = split(b"".join([record.idents for record in met]))
        asked = set(members) - fresh
        if len(met) > most:
            asked.update(ident for ident, count in Counter(members).items() if count > most)
        always: set[bytes] = set()
        if self._records:
            asked |= self._records.keys() & fresh
            attesting = [record for record in met if record.source_id not in self._untrusted]
            for record in (*attesting, *moved):
                always |= self._records.keys() & split(record.idents)
        return self.look(work, sorted(asked), always)

    def look(self, work: Working, idents: Sequence[bytes], always: Iterable[bytes] = ()) -> set[bytes]:
        """Count again who may have passed the limit, and `always`; return those whose quarantine changed.

        The sets of `idents` and their links must be in the transaction.
        """
        most = self._held.rules.degree_max
        before = self.quarantined()
        counts = dict(zip(idents, work.tx.link_counts(work.workspace, idents), strict=True))
        due = set(always)
        noted = self._stored(work, [ident for ident in idents if ident not in self._records])
        for ident, count in counts.items():
            record = self._records.get(ident) or noted.get(ident)
            again_at = record.again_at if record is not None and record.position else (most or NEVER) + 1
            if count + (0 if record is None else record.extra) >= again_at:
                due.add(ident)
        for ident in sorted(due):
            self._count(work, ident)
        return before ^ self.quarantined()

    def _stored(self, work: Working, idents: Sequence[bytes]) -> dict[bytes, QuarantineRecord]:
        """Return what is noted of identifiers whose degree was not counted."""
        if not self._noted or not idents:
            return {}
        found = work.tx.get_many(work.workspace, Db.QUARANTINE, idents)
        return {ident: decode_quarantine(value) for ident, value in found.items()}

    def forget(self, work: Working, idents: Iterable[bytes]) -> set[bytes]:
        """Count again after sets of these identifiers stopped to count as evidence."""
        return self.look(work, [], [ident for ident in idents if ident in self._records])

    def note_wide(self, work: Working, record: SetRecord) -> None:
        """Note by how much a set with several values of one type may raise degrees beyond one."""
        members = split(record.idents)
        types = Counter(work.idents[ident].type for ident in members)
        extra = max(types.values()) - 1
        most = self._held.rules.degree_max
        if not extra or most is None:
            return
        stored = self._stored(work, [ident for ident in members if ident not in self._records])
        for ident in members:
            known = self._records.get(ident) or stored.get(ident)
            if known is None:
                known = QuarantineRecord(record.collection, "", 0, b"", False, most + 1)
            self._put(work, ident, _with(known, extra=known.extra + extra))

    def _count(self, work: Working, ident: bytes) -> None:
        """Count an identifier's degree exactly and keep what it says."""
        most = self._held.rules.degree_max
        if most is None:
            return
        sets = work.tx.linked_sets(work.workspace, ident)
        degree = self._degree(work, ident, sets)
        collection = work.idents[ident].collection
        known = self._records.get(ident) or self._stored(work, [ident]).get(ident)
        extra = 0 if known is None else known.extra
        active = degree.counted > most
        # Each further set adds one at most, but for what `extra` says.
        again_at = NEVER if active else len(sets) + extra + 1 + most - degree.counted
        position = max((work.sets[key].position for key in sets), default=b"")
        self._put(
            work,
            ident,
            QuarantineRecord(collection, degree.type, degree.counted, position, active, again_at, extra),
        )

    def _degree(self, work: Working, ident: bytes, sets: Sequence[bytes]) -> _Degree:
        work.load_sets(sets)
        counting = [key for key in sets if self.is_evidence(key, work.sets[key])]
        members = {key: split(work.sets[key].idents) for key in counting}
        work.load_idents({ident, *(one for ids in members.values() for one in ids)})
        trusted = {key for key in counting if work.sets[key].source_id not in self._untrusted}
        own = work.idents[ident].type
        met: dict[str, set[bytes]] = {}
        for key in trusted or counting:
            for other in members[key]:
                if work.idents[other].type != own:
                    met.setdefault(work.idents[other].type, set()).add(other)
        type = min(met, key=lambda other: (-len(met[other]), other), default="")
        return _Degree(type, len(met.get(type, ())))

    def is_evidence(self, key: bytes, record: SetRecord) -> bool:
        """Tell whether any event that shows a set counts."""
        return record.position not in self._held.retracted.get(key, ())

    def _put(self, work: Working, ident: bytes, record: QuarantineRecord) -> None:
        work.tx.put(work.workspace, Db.QUARANTINE, ident, encode(record))
        self._noted = True
        if record.position:
            self._records[ident] = record
            (self._active.add if record.active else self._active.discard)(ident)


def _parts(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    every = iter(keys)
    while part := list(islice(every, PART_KEYS)):
        yield part


def split(joined: bytes) -> list[bytes]:
    """Return ids that stand one after the other."""
    return [joined[i : i + HASH_BYTES] for i in range(0, len(joined), HASH_BYTES)]


def _with(record: QuarantineRecord, *, extra: int) -> QuarantineRecord:
    return QuarantineRecord(
        record.collection, record.type, record.degree, record.position, record.active, record.again_at, extra
    )
