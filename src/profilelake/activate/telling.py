"""What a destination is told next: changes from the feed, profiles to look at again, and sweeps of what holds.

One look is one read transaction, so the place in the feed and the profiles a sweep has passed fit together: about
a profile behind the sweep nothing is told of the feed, as the sweep will show what holds then; about one before it
everything is. Nothing falls between, and nobody hears of an older value after a newer one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from typing import Final

from profilelake.activate import feed
from profilelake.activate.feed import Cursor, Gone, Wanted
from profilelake.activate.journal import Announced, Journal, Place, Sweep, Turn
from profilelake.activate.letters import state_of
from profilelake.activate.packing import packed
from profilelake.activate.people import Person, Told, chosen, load
from profilelake.activate.shapes import Notice, shaped
from profilelake.audiences import definitions_now, facts
from profilelake.audiences.facts import Resync
from profilelake.errors import Internal, Invalid
from profilelake.semantics.definitions import Held
from profilelake.semantics.destinations import EVERY, Destination
from profilelake.state.computed import ComputedRecord, decode_computed
from profilelake.state.records import received_at
from profilelake.state.store import Db, Tx
from profilelake.workspaces.destinations import Held as Destined

ACCOUNTS_MAX: Final = 50
"""Accounts of one turn: each comes with the people linked to it, up to a thousand."""
_ID: Final = 16
_NO_SWEEPS: Final[Mapping[str, int]] = {}
_ZERO: Final = state_of("0")
"""Of a count that came down to 0 this is told, although it is nothing."""


@dataclass(frozen=True, slots=True)
class _Standing:
    """Which definitions there are: by number, and what each says."""

    held: Mapping[str, Held]
    numbers: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class _Cause:
    """Something that may have to be told: a value of a profile, and why now.

    Without a `key` of its own the key is made of what is told. `again` tells even what is told already.
    """

    definition: str
    kind: str
    version: int
    collection: str
    profile: bytes
    value: str | None
    previous: str | None
    at: int
    cause: str
    key: str = ""
    again: int = 0
    """Number of the sweep that tells even what is told already, 0 for none."""


def standing(tx: Tx, workspace: str) -> _Standing:
    """Return the definitions that hold."""
    records = definitions_now.records(tx, workspace).values()
    return _Standing(definitions_now.held(tx, workspace), {record.number: record.key for record in records})


def begin(tx: Tx, workspace: str, journal: Journal, held: Destined, now: int) -> None:
    """Give a destination that was never looked at its place, and sweeps for definitions new to it.

    One that fell behind the feed, or whose state was built anew, is told what differs from what it heard.
    A definition that is younger than its place here is in the feed from its beginning.
    """
    destination = held.destination
    place = journal.place(destination.name)
    known = journal.known(destination.name)
    definitions_held = standing(tx, workspace).held
    wanted = {key: one for key, one in definitions_held.items() if destination.wants(key)}
    new = wanted.keys() - known
    here = feed.now(tx, workspace)
    fresh = Place(here.epoch, here.key, tx.last_key(workspace, Db.TOUCHED) or here.key[:8] + bytes(_ID))
    if place is None:
        journal.begin(destination.name, fresh)
        journal.decided(destination.name, tx.last_key(workspace, Db.DEFINITION_FACT) or b"", (), now=now)
        if not destination.backfill:
            journal.learn(destination.name, new)
            return
    elif _behind(tx, workspace, place):
        journal.begin(destination.name, fresh)
        journal.sweep(destination.name, sorted(known.intersection(wanted)), again=False, now=now)
    else:
        young = {key for key in new if received_at(wanted[key].created) > held.changed_at}
        journal.learn(destination.name, young)
        new -= young
    if new:
        journal.sweep(destination.name, sorted(new), again=False, now=now)


def follow(tx: Tx, workspace: str, journal: Journal, destination: Destination, now: int) -> None:
    """Take up the resyncs of this destination that somebody has decided since the last look."""
    last = tx.last_key(workspace, Db.DEFINITION_FACT) or b""
    seen = journal.decisions_seen(destination.name)
    if last == seen:
        return
    asked = [
        key
        for position, body in tx.items(workspace, Db.DEFINITION_FACT, seen)
        if position != seen and (key := _resync_of(body, destination))
    ]
    journal.decided(destination.name, last, asked, now=now)


def _resync_of(body: bytes, destination: Destination) -> str:
    try:
        fact = facts.decode(body)
    except Invalid:
        return ""  # of a newer program; whoever applies it has said so
    mine = isinstance(fact, Resync) and fact.destination == destination.name and destination.wants(fact.key)
    return fact.key if mine and isinstance(fact, Resync) else ""


def _behind(tx: Tx, workspace: str, place: Place) -> bool:
    try:
        after = feed.check(tx, workspace, Cursor(place.epoch, place.cursor))
    except Gone:
        return True
    reached = feed.now(tx, workspace)
    return after.key > reached.key or place.touched < feed.floor(tx, workspace, feed.TOUCHED_FLOOR)


def turn(tx: Tx, workspace: str, journal: Journal, destination: Destination, *, most: int) -> Turn | None:
    """Return what comes next for a destination and the place behind it, None where nothing does.

    Raises:
        Gone: the place is not kept any more; `begin` finds another one.
    """
    place = journal.place(destination.name)
    if place is None:
        raise Internal(f"telling destination {destination.name!r}: it has no place; begin first")
    sweeps = {sweep.definition: sweep for sweep in journal.sweeps(destination.name)}
    wanted = Wanted() if EVERY in destination.definitions else Wanted(frozenset(destination.definitions))
    after = Cursor(place.epoch, place.cursor)
    page = feed.read(tx, workspace, after, wanted, most)
    accounts = [row for row, (_, change) in enumerate(page.changes) if change.collection == "accounts"]
    if len(accounts) > ACCOUNTS_MAX:
        page = feed.read(tx, workspace, after, wanted, accounts[ACCOUNTS_MAX])
    causes = [
        _Cause(
            change.definition,
            change.kind,
            change.version,
            change.collection,
            change.profile,
            change.value,
            change.previous,
            change.at,
            change.cause,
            change.idempotency_key,
        )
        for _, change in page.changes
        if change.definition not in sweeps or change.profile <= sweeps[change.definition].through
    ]
    told = Turn(Place(page.cursor.epoch, page.cursor.key, place.touched))
    if page.drained:
        if _tells_accounts(tx, workspace, destination):
            most = min(most, ACCOUNTS_MAX)
        touched = list(islice(_touched(tx, workspace, place.touched), most))
        if touched:
            told.place = replace(told.place, touched=touched[-1])
            causes += _looked_at(tx, workspace, destination, {key[8:] for key in touched}, sweeps)
        elif sweeps:
            causes += _swept(tx, workspace, journal, destination, list(sweeps.values()), told, most)
    if told.place == place and not causes and not told.through:
        return None
    _decide(tx, workspace, journal, destination, causes, told)
    return told


def _tells_accounts(tx: Tx, workspace: str, destination: Destination) -> bool:
    """Tell whether a destination may be told of accounts by looking at what holds."""
    return any(
        one.definition.target == "accounts" and destination.wants(key)
        for key, one in definitions_now.held(tx, workspace).items()
    )


def _touched(tx: Tx, workspace: str, after: bytes) -> Iterator[bytes]:
    return (key for key in tx.keys(workspace, Db.TOUCHED, after) if key != after)


def _looked_at(
    tx: Tx, workspace: str, destination: Destination, profiles: set[bytes], sweeps: Mapping[str, Sweep]
) -> list[_Cause]:
    """Return what holds of profiles whose identifiers or consent have changed."""
    values = tx.decoded(workspace, Db.COMPUTED, sorted(profiles), decode_computed)
    at = feed.pipeline_time(tx, workspace)
    return [
        one
        for one in _holding(tx, workspace, destination, values, "identity", at)
        if one.definition not in sweeps or one.profile <= sweeps[one.definition].through
    ]


def _swept(
    tx: Tx,
    workspace: str,
    journal: Journal,
    destination: Destination,
    sweeps: list[Sweep],
    told: Turn,
    most: int,
) -> list[_Cause]:
    """Return the next part of those sweeps that are least far, and note in the turn how far they are then."""
    after = min(sweep.through for sweep in sweeps)
    together = [sweep for sweep in sweeps if sweep.through == after]
    names = {sweep.definition: sweep for sweep in together}
    items = (item for item in tx.items(workspace, Db.COMPUTED, after) if item[0] > after)
    values = {key: decode_computed(value) for key, value in islice(items, most)}
    through = max(values) if len(values) == most else None
    gone = journal.announced_between(destination.name, after, through, most)
    if len(gone) == most:
        # More was announced here than fits: go as far as that, the rest is the next part's.
        through = gone[-1] if through is None else min(through, gone[-1])
        values = {key: value for key, value in values.items() if key <= through}
    told.through = {sweep.id: through for sweep in together}
    again = {sweep.definition: sweep.id for sweep in together if sweep.again}
    causes = [
        one
        for one in _holding(tx, workspace, destination, values, "resync", again=again)
        if one.definition in names
    ]
    return causes + _ended(tx, workspace, journal, destination, values, gone, names)


def _ended(
    tx: Tx,
    workspace: str,
    journal: Journal,
    destination: Destination,
    values: Mapping[bytes, ComputedRecord],
    announced: Sequence[bytes],
    sweeps: Mapping[str, Sweep],
) -> list[_Cause]:
    """Return what was announced and does not hold any more."""
    known = standing(tx, workspace)
    numbers = {key: number for number, key in known.numbers.items()}
    at = feed.pipeline_time(tx, workspace)
    found = []
    for (profile, definition), last in journal.announced(destination.name, announced).items():
        record = values.get(profile)
        holds = record is not None and numbers.get(definition) in record.values
        if definition in sweeps and not holds and last.value != _ZERO:
            held = known.held.get(definition)
            kind = "audience" if held is None else held.definition.kind
            collection = "users" if held is None else held.definition.target
            found.append(
                _Cause(
                    definition,
                    kind,
                    last.version,
                    collection,
                    profile,
                    None,
                    None,
                    at,
                    "resync",
                )
            )
    return found


def _holding(
    tx: Tx,
    workspace: str,
    destination: Destination,
    values: Mapping[bytes, ComputedRecord],
    cause: str,
    at: int | None = None,
    again: Mapping[str, int] = _NO_SWEEPS,
) -> Iterator[_Cause]:
    """Yield what profiles are worth, as of `at` or since when they are."""
    known = standing(tx, workspace)
    for profile in sorted(values):
        for number, value in sorted(values[profile].values.items()):
            key = known.numbers.get(number, "")
            held = known.held.get(key)
            if held is None or not destination.wants(key):
                continue
            yield _Cause(
                key,
                held.definition.kind,
                value.version,
                held.definition.target,
                profile,
                value.value,
                None,
                value.since if at is None else at,
                cause,
                again=again.get(key, 0),
            )


# ---- what is told of it ------------------------------------------------------------------------------


def _decide(
    tx: Tx, workspace: str, journal: Journal, destination: Destination, causes: list[_Cause], told: Turn
) -> None:
    """Turn causes into records, in order, and note what is announced by them."""
    profiles = {one.profile for one in causes}
    accounts = frozenset(one.profile for one in causes if one.collection == "accounts")
    people = load(
        tx,
        workspace,
        profiles,
        consent=bool(destination.consent),
        traits=destination.traits,
        accounts=accounts,
    )
    announced = dict(journal.announced(destination.name, profiles))
    created = {key: held.created for key, held in standing(tx, workspace).held.items()} if causes else {}
    notices: list[Notice] = []
    for one in causes:
        place = (one.profile, one.definition)
        last = announced.get(place)
        notice, now = _told(destination, one, people[one.profile], last, created.get(one.definition, b""))
        if now is None:
            announced.pop(place, None)
        else:
            announced[place] = now
        told.announced[place] = now
        if notice is not None:
            notices.append(notice)
    told.batches = packed(destination, shaped(destination, workspace, notices))


def _told(
    destination: Destination, one: _Cause, person: Person, last: Announced | None, created: bytes
) -> tuple[Notice | None, Announced | None]:
    """Return what is told of a cause, if anything, and what is announced from then on."""
    # Of an account nobody asks; the people in it are asked one by one when it is told.
    allowed = one.collection == "accounts" or person.consents(destination.consent)
    unheard = one.cause == "identity" and not (one.key or destination.backfill or destination.consent)
    if last is None and unheard and one.value is not None:
        return None, None  # it was there before this destination, which asked not to be told of that
    if one.value is None or not allowed:
        if last is None and (not allowed or not one.key):
            return None, None  # nothing was ever told, so there is nothing to take back
        cause = one.cause if allowed or one.value is None else "consent"
        ids = chosen(person.identifiers, destination.ids, leaving=True)
        return _notice(one, person, ids, None, cause, created), None
    ids = chosen(person.identifiers, destination.ids, leaving=False)
    digest = state_of(one.value)
    now = Announced(digest, one.version, b"".join(sorted(told.ident for told in ids)))
    if one.key or one.again or last is None or last.value != digest:
        cause = "consent" if last is None and one.cause == "identity" and destination.consent else one.cause
        return _notice(one, person, ids, one.value, cause, created), now
    # The same value again: only those who can be told by an identifier that is new.
    fresh = [told for told in ids if told.ident not in _split(last.ids)]
    if not fresh:
        return None, last
    if destination.type != "segment":
        fresh = ids
    return _notice(one, person, fresh, one.value, "identity", created), now


def _notice(
    one: _Cause, person: Person, ids: list[Told], value: str | None, cause: str, created: bytes
) -> Notice:
    key = one.key
    # A change keeps the key it has in the feed, unless this destination is told something else than it says.
    if not key or value != one.value:
        key = _key(_parts(one, ids, value, cause))
    return Notice(
        definition=one.definition,
        kind=one.kind,
        version=one.version,
        collection=one.collection,
        person=person,
        ids=tuple(ids),
        value=value,
        previous=one.previous,
        at=one.at,
        cause=cause,
        idempotency_key=key,
        created=created,
    )


def _parts(one: _Cause, ids: list[Told], value: str | None, cause: str) -> Iterable[bytes]:
    """Return what makes something that is told different from all else that is."""
    return (
        one.definition.encode(),
        one.version.to_bytes(8, "big"),
        one.profile,
        b"" if value is None else b"=" + value.encode(),
        cause.encode(),
        one.at.to_bytes(8, "big"),
        one.again.to_bytes(8, "big"),
        *sorted(told.ident for told in ids),
    )


def _key(parts: Iterable[bytes]) -> str:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.hexdigest()


def _split(idents: bytes) -> set[bytes]:
    return {idents[start : start + _ID] for start in range(0, len(idents), _ID)}
