"""How a profile formed, event by event: told again from its sets, under the rules and decisions in force.

A profile is made of what its sets linked, and every set's refusals are kept; so its past is that of
joining these links in the order of their first events, and nobody else's sets are needed. What this
region *announced* at the time is another question: the table `identity_updates` has it.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, takewhile
from typing import Any, Final

from profilelake.errors import Internal, Invalid
from profilelake.identity import facts
from profilelake.identity._evidence import Entry, split
from profilelake.identity.facts import Fact
from profilelake.identity.told import History, Part, Step
from profilelake.identity.view import PAGE_ROWS_MAX, Page, View, decided, evidence, position_of
from profilelake.semantics.rules import COLLECTIONS, Collection
from profilelake.semantics.times import format_time
from profilelake.state.records import (
    NOBODY,
    IdentRecord,
    ProfileRecord,
    RefusalRecord,
    received_at,
)

HISTORY_SETS_MAX: Final = 100_000
"""Sets of a profile whose history is told."""
PARTS_MAX: Final = 100
"""Profiles shown as what there was at the end of a history that is cut short."""
_PLACE_BYTES: Final = 4


def history(
    view: View, collection: Collection | None, text: str, *, as_of: int | None = None, after: str, rows: int
) -> Page[History]:
    """Return a page of the steps in which a profile formed, the first one first.

    `text` is any id it ever had, or one of its identifiers. With `as_of` (microseconds) only events
    and decisions before that time are told. `after` is `following` of the page before, "" for the start.

    Raises:
        Invalid: `text` or `after` cannot be read, or the profile has too many sets.
        NotFound: `text` has no profile today.
    """
    key = view.profile_of(collection, text)
    record = view.tx.profile(view.workspace, key)
    if record is None:
        raise Internal(
            f"telling the history of the profile {key.hex()}: a set leads to it and it is not there"
        )
    if len(record.sets) > HISTORY_SETS_MAX:
        raise Invalid(
            f"history of {text[:80]!r}: its profile has {len(record.sets):,} sets, more than the"
            f" {HISTORY_SETS_MAX:,} that are told; ask the lake with SQL: identity_updates"
        )
    replay = _Replay(view, record, as_of)
    page = _Chosen(after, min(rows, PAGE_ROWS_MAX))
    for position, steps in groupby(replay.steps(), key=lambda step: step.position):
        page.take(position, steps)
    parts = replay.parts()
    told = History(
        collection=COLLECTIONS[record.collection],
        profile_id=view.public(record.collection, key) or "",
        asked_for=text,
        as_of=None if as_of is None else format_time(as_of),
        parts=parts[:PARTS_MAX],
        parts_more=len(parts) > PARTS_MAX,
        steps=[step.told(view) for step in page.chosen],
    )
    return Page(told, page.following)


@dataclass(frozen=True, slots=True)
class _Step:
    """A step with keys instead of words; only those of the page that is asked for are told."""

    position: bytes
    what: str
    collection: int
    profile: bytes = NOBODY
    idents: tuple[bytes, ...] = ()
    count: int = 0
    merged: bytes = NOBODY
    entry: Entry | None = None
    refusal: RefusalRecord | None = None
    fact: Fact | None = None

    def told(self, view: View) -> Step:
        nodes = view.nodes(self.idents)
        refused = None
        if self.entry is not None and self.refusal is not None:
            (refused,) = view.refused([(self.entry, self.refusal)])
        return Step(
            at=format_time(received_at(self.position)),
            position=self.position.hex(),
            what=self.what,
            profile_id=view.public(self.collection, self.profile),
            identifiers=[nodes[ident] for ident in self.idents],
            count=self.count,
            merged_profile_id=view.public(self.collection, self.merged),
            evidence=None if self.entry is None else evidence(self.entry),
            refused=refused,
            decision=None if self.fact is None else decided(view, self.position, self.fact),
        )


@dataclass(slots=True)
class _Chosen:
    """The steps behind `after`, at most `rows`. A step's place is its position and its number there."""

    after: str
    rows: int
    chosen: list[_Step] = field(default_factory=list)
    following: str | None = None
    _last: str = ""

    def take(self, position: bytes, steps: Iterable[_Step]) -> None:
        """Choose what is wanted of all the steps at one position."""
        start = position_of(self.after) if self.after else b""
        for number, step in enumerate(steps):
            place = position + number.to_bytes(_PLACE_BYTES, "big")
            if place <= start:
                continue
            if len(self.chosen) == self.rows:
                self.following = self._last
                return
            self.chosen.append(step)
            self._last = place.hex()


class _Replay:
    """Joins the links of one profile again, in the order of their events."""

    def __init__(self, view: View, record: ProfileRecord, as_of: int | None) -> None:
        self._view = view
        self._collection = record.collection
        self._as_of = as_of
        self._sets = view.tx.sets(view.workspace, record.sets)
        raw = {ident for one in self._sets.values() for ident in split(one.idents)}
        self._idents: dict[bytes, IdentRecord] = view.tx.idents(view.workspace, raw)
        self._owned = frozenset(ident for ident, _ in record.idents)
        self._entries = sorted(entry for some in view.entries(self._sets).values() for entry in some)
        self._parts = _Parts()

    def steps(self) -> Iterator[_Step]:
        """Yield what happened, in order."""
        decisions = deque(self._decisions())
        for entry in self._entries:
            if not self._is_told(entry.position):
                break
            while decisions and decisions[0].position < entry.position:
                yield decisions.popleft()
            yield from self._met(entry)
        yield from takewhile(lambda step: self._is_told(step.position), decisions)

    def parts(self) -> list[Part]:
        """Return the profiles there are at the end, the oldest first."""
        named = sorted(self._parts.named(), key=lambda one: self._founded(one[0]))
        return [Part(self._view.public(self._collection, name) or "", size) for name, size in named]

    def _founded(self, name: bytes) -> bytes:
        return self._sets[name].position

    def _is_told(self, position: bytes) -> bool:
        return self._as_of is None or received_at(position) < self._as_of

    def _met(self, entry: Entry) -> list[_Step]:
        """Join what a set linked; return what that changed, and what it refused."""

        def step(what: str, profile: bytes, **more: Any) -> _Step:
            return _Step(entry.position, what, self._collection, profile, entry=entry, **more)

        linked = sorted((ident for ident in entry.idents if ident in self._owned), key=self._strength)
        if not linked:
            return []
        parts = self._parts
        steps: list[_Step] = []
        fresh = tuple(ident for ident in linked if not parts.knows(ident))
        held = list(dict.fromkeys(parts.name(ident) for ident in linked if parts.knows(ident)))
        if not held:
            profile = entry.key
            parts.found(profile, fresh)
            steps.append(step("created", profile, idents=fresh))
        else:
            profile = held[0]
            for other in held[1:]:
                # The one that was founded first lives on.
                profile, gone = sorted((profile, other), key=self._founded)
                steps.append(step("merged", profile, count=parts.merge(profile, gone), merged=gone))
            if fresh:
                parts.join(profile, fresh)
                steps.append(step("joined", profile, idents=fresh))
        refused = (
            step("refused", profile, idents=(refusal.ident,), refusal=refusal) for refusal in entry.refused
        )
        return [*steps, *refused]

    def _strength(self, ident: bytes) -> tuple[float, str, str]:
        """Return what identifiers of a set are sorted by, strongest first."""
        record = self._idents[ident]
        rule = self._view.held.rules.rule(COLLECTIONS[self._collection], record.type)
        return (float("inf") if rule is None else rule.priority), record.type, record.value

    def _decisions(self) -> list[_Step]:
        """Return what was decided about this profile's identifiers and events, in order."""
        found = [
            _Step(position, "decided", self._collection, fact=fact)
            for position, fact in self._view.decisions
            if self._concerns(fact)
        ]
        for ident, record in self._view.by_degree().items():
            if ident in self._idents and ident not in self._view.held.quarantined:
                found.append(
                    _Step(
                        record.position,
                        "quarantined_by_degree",
                        self._collection,
                        idents=(ident,),
                        count=record.degree,
                    )
                )
        return sorted(found, key=lambda step: step.position)

    def _concerns(self, fact: Fact) -> bool:
        match fact:
            case facts.Unlink():
                return bytes.fromhex(fact.one) in self._idents or bytes.fromhex(fact.other) in self._idents
            case facts.Quarantine():
                return bytes.fromhex(fact.ident) in self._idents
            case facts.Retract():
                return any(bytes.fromhex(key) in self._sets for _, key in fact.sets)
            case facts.NewRules():
                return True
            case facts.Leave():
                return bytes.fromhex(fact.user) in self._idents or bytes.fromhex(fact.account) in self._idents


class _Parts:
    """Identifiers joined to profiles: a union-find whose sets have names and sizes."""

    def __init__(self) -> None:
        self._parent: dict[bytes, bytes] = {}
        self._size: dict[bytes, int] = {}
        self._name: dict[bytes, bytes] = {}
        self._root: dict[bytes, bytes] = {}

    def knows(self, ident: bytes) -> bool:
        """Tell whether somebody has the identifier."""
        return ident in self._parent

    def name(self, ident: bytes) -> bytes:
        """Return the founding set of the profile that has it."""
        return self._name[self._find(ident)]

    def named(self) -> Iterator[tuple[bytes, int]]:
        """Yield each profile's founding set with the number of its identifiers."""
        for name, root in self._root.items():
            yield name, self._size[root]

    def found(self, name: bytes, idents: tuple[bytes, ...]) -> None:
        """Begin a profile."""
        self._parent[idents[0]] = idents[0]
        self._size[idents[0]] = 1
        self._name[idents[0]] = name
        self._root[name] = idents[0]
        self.join(name, idents[1:])

    def join(self, name: bytes, idents: tuple[bytes, ...]) -> None:
        """Give a profile identifiers that nobody has."""
        root = self._root[name]
        self._parent.update(dict.fromkeys(idents, root))
        self._size[root] += len(idents)

    def merge(self, name: bytes, gone: bytes) -> int:
        """Let one profile become part of another; return how many identifiers came with it."""
        root, other = self._root[name], self._root.pop(gone)
        came = self._size[other]
        if came > self._size[root]:
            root, other = other, root
        self._parent[other] = root
        self._size[root] += self._size.pop(other)
        del self._name[other]
        self._name[root], self._root[name] = name, root
        return came

    def _find(self, ident: bytes) -> bytes:
        while (above := self._parent[ident]) != ident:
            self._parent[ident] = ident = self._parent[above]
        return ident
