"""A profile as it was at a time: `as_of=T` for the profile, its traits and its identifiers.

What was received until T, evaluated at T under the rules in force then; `rules=current` takes those of
today. A merge that came later has not happened, a write that came later is not there.
"""

from collections.abc import Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from profilelake.identity.as_of import Moment, ProfileThen, Seen, profile_at
from profilelake.profiles.fold import WRITERS
from profilelake.profiles.tables import TRAIT_WRITES
from profilelake.semantics.conditions.values import canonical
from profilelake.semantics.rules import Collection as Kind
from profilelake.semantics.rules import IdentityRules
from profilelake.serve import _past
from profilelake.serve._answer import invalid, profile_not_found
from profilelake.serve._computed import ComputedValue
from profilelake.serve._past import SET_COLUMN, Past
from profilelake.serve._profile import Found
from profilelake.serve._request import Query
from profilelake.serve._visible import Allowed
from profilelake.serve.lived import Lives, plan_at
from profilelake.state.records import TraitRecord, join_traits, received_at
from profilelake.state.store import Tx

_WHAT: Final = "reading a profile as of a time"
_DAY: Final = 86_400_000_000
_SEEN: Final = """
    WITH seen AS (
        (SELECT {column} AS key, position, source_id, received_at FROM ({events}))
        UNION ALL
        (SELECT {column} AS key, position, source_id, received_at FROM ({copies}))
    )
    SELECT key, min(position), arg_min(source_id, position)
    FROM seen WHERE epoch_us(received_at) <= $at
    GROUP BY key, list_contains($gone, position), CASE WHEN $by_day THEN epoch_us(received_at) // $day END
"""
_WRITES: Final = """
    SELECT trait, value, epoch_us(timestamp), position, source_id, coalesce(message_id, '')
    FROM ({rows}) WHERE epoch_us(received_at) <= $at
    QUALIFY row_number() OVER (PARTITION BY trait ORDER BY timestamp DESC, position DESC) = 1
"""
_EARLIER: Final = """
    WITH copies AS (
        SELECT * FROM ({copies}) WHERE epoch_us(received_at) <= $at AND type = $call AND traits IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY message_id ORDER BY position) = 1
    ),
    events AS (SELECT message_id FROM ({events}) WHERE epoch_us(received_at) <= $at)
    SELECT traits, epoch_us(timestamp), position, source_id, coalesce(message_id, '')
    FROM copies ANTI JOIN events USING (message_id)
"""
_ACTIVITY: Final = """
    WITH seen AS (
        (SELECT message_id, received_at FROM ({events}))
        UNION ALL
        (SELECT message_id, received_at FROM ({copies}))
    )
    SELECT count(DISTINCT message_id), max(epoch_us(received_at))
    FROM seen WHERE epoch_us(received_at) <= $at
"""

_decode: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_NULL: Final = msgspec.Raw(b"null")


@dataclass(frozen=True, slots=True)
class AsOf:
    """What a request says of the time: `at` in microseconds, and whether today's rules are meant."""

    at: int
    rules_now: bool

    @classmethod
    def of(cls, query: Query, now: int) -> "AsOf":
        """Read `as_of` and `rules`.

        Raises:
            Refused: there is no time, or one that has not come yet.
        """
        at = query.time("as_of", -1)
        if not query.text("as_of"):
            raise invalid("The parameter `as_of` must be an ISO 8601 time, such as 2026-01-31T12:00:00Z.")
        if at > now:
            raise invalid("The parameter `as_of` must not lie in the future.")
        return cls(at, query.choice("rules", ("then", "current")) == "current")


@dataclass(frozen=True, slots=True)
class FoundThen(Found):
    """One profile as it was; what reads a profile of today reads this one too."""

    written: dict[str, TraitRecord] = field(default_factory=dict)
    worth: dict[str, ComputedValue] = field(default_factory=dict)
    first_seen_at: int = 0

    def traits(self) -> dict[str, TraitRecord]:
        """Return the last write of each trait until then."""
        return self.written

    def computed(self) -> dict[str, ComputedValue]:
        """Return what definitions were worth then; what SQL had said by then is not known."""
        return self.worth

    def only(self, allowed: Allowed) -> "FoundThen":
        """Return the profile with no other traits than these."""
        if allowed is None:
            return self
        return replace(self, written={name: self.written[name] for name in self.written.keys() & allowed})


@dataclass(frozen=True, slots=True)
class Reading:
    """What is needed to read the past of one workspace besides the request."""

    past: Past
    identifier_key: bytes
    rules: IdentityRules
    untrusted: AbstractSet[str]


def find_then(tx: Tx, space: str, collection: Kind, id: str, as_of: AsOf, reading: Reading) -> FoundThen:
    """Return the profile an id meant at a time, with its traits of then.

    Raises:
        Refused: there was none.
        FileNotFoundError: a run was merged away since the transaction began; begin another one.
        Invalid, Unavailable: too much has to be looked through.
    """
    if "\0" in id.partition(":")[0]:
        raise invalid("The parameter `id` has invalid character(s) in its type.")
    if as_of.at < 0:
        raise profile_not_found()  # positions count from 1970; nothing was received before

    def seen(kind: Kind, keys: Sequence[bytes], gone: AbstractSet[bytes], by_day: bool) -> Iterable[Seen]:
        return _seen(reading.past, tx, space, kind, keys, as_of.at, gone, by_day=by_day)

    moment = Moment(
        tx, space, reading.identifier_key, reading.rules, as_of.at, reading.untrusted, seen, as_of.rules_now
    )
    then = profile_at(moment, collection, id)
    if then is None:
        raise profile_not_found()
    written = _written(reading.past, tx, space, collection, then, as_of.at)
    first = min(received_at(place) for place in then.first.values())
    found = FoundThen(tx, space, collection, then.key, then.record, written=written, first_seen_at=first)
    return replace(found, worth=_worth(found, as_of, reading.past))


def _worth(found: FoundThen, as_of: AsOf, past: Past) -> dict[str, ComputedValue]:
    """Return what the definitions of then (or of today, if so asked) were worth at the time."""
    plan = plan_at(found.tx, found.space, None if as_of.rules_now else as_of.at)
    plan = tuple(one for one in plan if one.held.definition.target == found.collection)
    if not plan or found.collection == "accounts":
        # Who belonged to an account then would have to be resolved for each of its users.
        return {}
    subject = Lives(past, as_of.at, plan).subject(found)
    worth: dict[str, ComputedValue] = {}
    for one in plan:
        definition = one.held.definition
        value = subject.traits[definition.key]
        if value is not None and value is not False and value != 0:
            worth[definition.key] = ComputedValue(canonical(value), as_of.at, definition.kind)
    return worth


def activity_then(found: FoundThen, at: int, past: Past) -> tuple[int, int]:
    """Return how many events the profile had until then, and when the last one was received."""
    rows = _ask(past, found.tx, found.space, found.collection, found.record.sets, at, _ACTIVITY, {})
    (count, last), *_ = rows
    return count, last


def _ask(
    past: Past,
    tx: Tx,
    space: str,
    collection: Kind,
    keys: Collection[bytes],
    at: int,
    question: str,
    parameters: dict[str, Any],
) -> list[Any]:
    """Ask about events of these sets and earlier copies of them."""
    column = SET_COLUMN[collection]
    copies = past.copies(tx, space, collection, keys, at)
    events = past.events(tx, space, collection, keys, received_to=at)
    with past.asking(_WHAT) as connection:
        told = question.format(
            column=column,
            events=_past.select(connection, events, column, keys),
            copies=_past.select(connection, copies, column, keys, name="waiting_copies"),
        )
        rows: list[Any] = connection.execute(told, {"at": at, **parameters}).fetchall()
    return rows


def _seen(
    past: Past,
    tx: Tx,
    space: str,
    collection: Kind,
    keys: Sequence[bytes],
    at: int,
    gone: AbstractSet[bytes],
    *,
    by_day: bool,
) -> list[Seen]:
    parameters = {"gone": sorted(gone), "by_day": by_day, "day": _DAY}
    return [Seen(*row) for row in _ask(past, tx, space, collection, keys, at, _SEEN, parameters)]


def _written(
    past: Past, tx: Tx, space: str, collection: Kind, then: ProfileThen, at: int
) -> dict[str, TraitRecord]:
    """Return the last write of each trait until then.

    A write that stands today and was there then stood then, too: only sets that were written since
    have to be looked up.
    """
    joined: dict[str, TraitRecord] = {}
    later: list[bytes] = []
    for key, held in tx.set_traits(space, then.record.sets).items():
        known = {name: write for name, write in held.items() if received_at(write.position) <= at}
        join_traits(joined, known)
        if len(known) < len(held):
            later.append(key)
    if later:
        join_traits(joined, _looked_up(past, tx, space, later, at))
        for write in _earlier(past, tx, space, collection, later, at):
            join_traits(joined, write)
    return joined


def _looked_up(past: Past, tx: Tx, space: str, keys: Sequence[bytes], at: int) -> dict[str, TraitRecord]:
    where = past.appended(tx, space, TRAIT_WRITES, keys, received_to=at)
    with past.asking(_WHAT) as connection:
        rows = _past.select(connection, where, "set_id", keys)
        found = connection.execute(_WRITES.format(rows=rows), {"at": at}).fetchall()
    return {trait: TraitRecord(*write) for trait, *write in found}


def _earlier(
    past: Past, tx: Tx, space: str, collection: Kind, keys: Sequence[bytes], at: int
) -> Iterable[dict[str, TraitRecord]]:
    """Yield the writes of calls that were received until then, and again later: the later one was kept."""
    call, _ = WRITERS[collection]
    if not past.has_copies(tx, space, collection, keys, at):
        return
    for text, *write in _ask(past, tx, space, collection, keys, at, _EARLIER, {"call": call}):
        timestamp, position, source_id, message_id = write
        yield {
            name: TraitRecord(
                None if raw == _NULL else bytes(raw).decode(), timestamp, position, source_id, message_id
            )
            for name, raw in _decode(text).items()
        }
