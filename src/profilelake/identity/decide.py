"""From what people ask for to facts: checked against what is known, said with ids instead of values.

Nothing is changed here. A request that the decisions in force fulfil already comes back as unchanged;
one that cannot mean anything is refused with what to do instead.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

import msgspec

from profilelake.errors import Conflict, Invalid, NotFound
from profilelake.eventlog import Entry, Flags, Kind
from profilelake.identity import standing
from profilelake.identity.facts import (
    FACT_BYTES_MAX,
    NOTE_CHARACTERS_MAX,
    Fact,
    Leave,
    NewRules,
    Quarantine,
    Retract,
    Standing,
    Unlink,
    encode,
)
from profilelake.semantics.identifiers import Identifier, ident_id, normalised, parse_public_id, public_id
from profilelake.semantics.rules import COLLECTIONS, EXTRACTION_VERSION, Collection, IdentityRules
from profilelake.state.records import NOBODY, IdentRecord, collection_name, decode_quarantine
from profilelake.state.store import Db, State, Tx

EVENT_COPIES_MAX: Final = 100
"""Positions of one event that a retraction names; each is a place where a copy of it arrived."""


class _Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="decision"):
    """What is asked for, and why. `anyway`: record it also where it changes nothing today."""

    note: str = ""
    collection: Collection | None = None
    anyway: bool = False


class AskUnlink(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="unlink"):
    """Keep two identifiers (`type:value`) apart, in all that was and will be."""

    identifiers: tuple[str, str]


class AskRelink(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="relink"):
    """Take back that two identifiers are kept apart."""

    identifiers: tuple[str, str]


class AskRemove(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="remove"):
    """Keep an identifier apart from what a profile began with."""

    identifier: str
    profile: str


class AskQuarantine(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="quarantine"):
    """Let an identifier link nobody."""

    identifier: str


class AskRelease(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="release"):
    """Let an identifier link again, however many others it meets."""

    identifier: str


class AskRetract(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="retract"):
    """Let an event be no evidence of who is who. The event itself stays."""

    message_id: str


class AskRestore(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="restore"):
    """Let a retracted event be evidence again."""

    message_id: str


class AskRules(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="rules"):
    """Put rules in force: YAML as in `definitions/identity.yaml`, or null for that file."""

    rules: str | None


class AskLeave(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="leave"):
    """Let a person have left an account until now: one identifier of each (`type:value`)."""

    user: str
    account: str


class AskRejoin(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="rejoin"):
    """Take back that a person left an account, however often that was said."""

    user: str
    account: str


Asked: TypeAlias = (
    AskUnlink
    | AskRelink
    | AskRemove
    | AskQuarantine
    | AskRelease
    | AskRetract
    | AskRestore
    | AskRules
    | AskLeave
    | AskRejoin
)

Belongs: TypeAlias = Callable[[Tx, str, bytes, bytes], bool]
"""Whether the person founded by one set belongs to the account founded by another, in a workspace."""


class EventSeen(msgspec.Struct, frozen=True):
    """An event as evidence: where it and its copies stand, and its sets."""

    positions: tuple[bytes, ...]
    sets: tuple[tuple[Collection, bytes], ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What a request is checked against: one moment of the state, and the decisions in force then.

    `find_event` looks a message id up, `read_rules` reads rules, `belongs` tells who is a member of what;
    they are called only where needed.
    """

    tx: Tx
    workspace: str
    key: bytes
    held: Standing
    find_event: Callable[[str], EventSeen | None]
    read_rules: Callable[[str | None], IdentityRules]
    belongs: Belongs


@dataclass(frozen=True, slots=True)
class Decided:
    """The facts to record; without `changed` they hold already, and nothing is to be recorded."""

    facts: tuple[Fact, ...]
    changed: bool


@dataclass(frozen=True, slots=True)
class Deciding:
    """Checks requests about one workspace against its state; `rules` hold where nobody has set any.

    `read_rules` returns the rules in a text, or for None those of the definitions; `belongs` tells who is
    a member of what.
    """

    state: Callable[[], State]
    workspace: str
    key: Callable[[], bytes]
    rules: IdentityRules
    read_rules: Callable[[str | None], IdentityRules]
    belongs: Belongs

    def held(self, tx: Tx) -> Standing:
        """Return the decisions in force."""
        return standing.load(tx, self.workspace, self.rules)

    def decide(self, asked: Asked, by: str, find_event: Callable[[str], EventSeen | None]) -> Decided:
        """Return the facts that fulfil a request, as `decide` does. Events are looked up by `find_event`."""
        with self.state().read(self.workspace) as tx:
            held = self.held(tx)
            key, workspace = self.key(), self.workspace
            known = Known(tx, workspace, key, held, find_event, self.read_rules, self.belongs)
            return decide(asked, known, by)


def decide(asked: Asked, known: Known, by: str) -> Decided:
    """Return the facts that fulfil a request of `by`.

    Raises:
        Invalid: it cannot mean anything as it is.
        NotFound: an identifier, a profile, an event or an earlier decision is not there.
        Conflict: it would change nothing today, and `anyway` was not said.
    """
    if len(asked.note) > NOTE_CHARACTERS_MAX:
        raise Invalid(
            f"deciding: the note has {len(asked.note):,} characters; {NOTE_CHARACTERS_MAX:,} are kept"
        )
    match asked:
        case AskUnlink():
            decided = _unlink(asked, known, by)
        case AskRelink():
            decided = _relink(asked, known, by)
        case AskRemove():
            decided = _remove(asked, known, by)
        case AskQuarantine():
            decided = _quarantine(asked, known, by)
        case AskRelease():
            decided = _release(asked, known, by)
        case AskRetract() | AskRestore():
            decided = _retract(asked, known, by)
        case AskRules():
            decided = _rules(asked, known, by)
        case AskLeave() | AskRejoin():
            decided = _membership(asked, known, by)
    for fact in decided.facts:
        if len(encode(fact)) > FACT_BYTES_MAX:
            raise Invalid(f"deciding: it takes more than {FACT_BYTES_MAX:,} bytes; say it in fewer")
    return decided


# ---- identifiers -----------------------------------------------------------------------------


class _Named(NamedTuple):
    """An identifier that was seen."""

    collection: Collection
    identifier: Identifier
    id: bytes
    record: IdentRecord


def _named(known: Known, doing: str, text: str, collection: Collection | None, *, links: bool) -> _Named:
    """Return the identifier `text` names; with `links`, one that the rules let link."""
    type, colon, value = text.partition(":")
    if not (type and colon and value) or "\0" in type:
        raise Invalid(f"{doing}: {text!r} is no identifier; give TYPE:VALUE, such as email:ana@example.org")
    rules = known.held.rules
    places = COLLECTIONS if collection is None else (collection,)
    ruled = [(place, rule) for place in places if (rule := rules.rule(place, type)) is not None]
    if links and not ruled:
        types = ", ".join(sorted({rule.type for rule in rules.types if rule.collection in places}))
        raise Invalid(f"{doing}: no rule knows the type {type!r}; the types are {types}")
    for place in [place for place, _ in ruled] or places:
        identifier = Identifier(type, normalised(rules, place, type, value))
        try:
            id = ident_id(known.key, place, identifier)
        except UnicodeEncodeError as error:
            raise Invalid(f"{doing}: {text!r} is not valid text") from error
        record = known.tx.ident(known.workspace, id)
        if record is not None:
            return _linking(rules, doing, _Named(place, identifier, id, record), links=links)
    raise NotFound(
        f"{doing}: {text} was never seen, or its event is not applied yet; look at the spelling, or wait for"
        " `profilelake status` to say that nothing is in flight"
    )


def _linking(rules: IdentityRules, doing: str, named: _Named, *, links: bool) -> _Named:
    rule = rules.rule(named.collection, named.identifier.type)
    if links and rule is not None and rule.blocks(named.identifier.value):
        raise Invalid(
            f"{doing}: the rules block {named.identifier}, so it links nobody; there is nothing to decide"
        )
    return named


def _pair(asked: AskUnlink | AskRelink, known: Known, doing: str, *, links: bool) -> tuple[_Named, _Named]:
    one, other = (_named(known, doing, text, asked.collection, links=links) for text in asked.identifiers)
    if one.collection != other.collection:
        raise Invalid(
            f"{doing}: {one.identifier} is of {one.collection}, {other.identifier} of {other.collection};"
            " people and accounts never share a profile"
        )
    if one.id == other.id:
        raise Invalid(f"{doing}: both are {one.identifier}; name two identifiers")
    return one, other


# ---- decisions -------------------------------------------------------------------------------


def _unlink(asked: AskUnlink, known: Known, by: str) -> Decided:
    doing = "unlinking {} and {}".format(*asked.identifiers)
    one, other = _pair(asked, known, doing, links=True)
    fact = Unlink(by=by, note=asked.note, collection=one.collection, one=one.id.hex(), other=other.id.hex())
    if _apart(known, one.id, other.id):
        return Decided((fact,), changed=False)
    if not asked.anyway and (one.record.profile == NOBODY or one.record.profile != other.record.profile):
        raise Conflict(
            f"{doing}: they do not share a profile now ({_where(one)}, {_where(other)}); to keep them apart"
            " in future too, say so: --anyway, or `anyway` in the request"
        )
    return Decided((fact,), changed=True)


def _relink(asked: AskRelink, known: Known, by: str) -> Decided:
    doing = "relinking {} and {}".format(*asked.identifiers)
    one, other = _pair(asked, known, doing, links=False)
    fact = Unlink(
        by=by,
        note=asked.note,
        collection=one.collection,
        one=one.id.hex(),
        other=other.id.hex(),
        apart=False,
    )
    if _apart(known, one.id, other.id):
        return Decided((fact,), changed=True)
    if ("unlink", *sorted((fact.one, fact.other))) in known.held.decided:
        return Decided((fact,), changed=False)
    raise NotFound(
        f"{doing}: nobody has unlinked them; `profilelake identity decisions` lists what was decided"
    )


def _remove(asked: AskRemove, known: Known, by: str) -> Decided:
    doing = f"removing {asked.identifier} from {asked.profile}"
    place = parse_public_id(asked.profile)
    if place is None:
        raise Invalid(
            f"{doing}: {asked.profile!r} is no profile id; `profilelake profile get` shows it as profile_id"
        )
    collection, key = place
    founding = known.tx.set(known.workspace, key)
    if founding is None or collection_name(founding.collection) != collection:
        raise NotFound(f"{doing}: there is no such profile")
    if known.tx.profile(known.workspace, key) is None:
        now = f"; it is part of {public_id(collection, founding.profile)}" if founding.profile else ""
        raise NotFound(f"{doing}: that profile is no more{now}")
    named = _named(known, doing, asked.identifier, collection, links=True)
    if not founding.anchor:
        raise Invalid(
            f"{doing}: nothing the profile began with may link under the rules of today; unlink the identifier"
            " from another one of the profile"
        )
    if named.id == founding.anchor:
        raise Invalid(
            f"{doing}: the profile began with {named.identifier}; remove the others from it, or unlink them"
            " from it one by one"
        )
    fact = Unlink(
        by=by,
        note=asked.note,
        collection=collection,
        one=founding.anchor.hex(),
        other=named.id.hex(),
        removed_from=asked.profile,
    )
    if _apart(known, named.id, founding.anchor):
        return Decided((fact,), changed=False)
    if named.record.profile != key:
        raise NotFound(f"{doing}: it is not in that profile ({_where(named)})")
    return Decided((fact,), changed=True)


def _quarantine(asked: AskQuarantine, known: Known, by: str) -> Decided:
    named = _named(known, f"quarantining {asked.identifier}", asked.identifier, asked.collection, links=True)
    fact = Quarantine(by=by, note=asked.note, collection=named.collection, ident=named.id.hex())
    held = named.id in known.held.quarantined or (_by_degree(known, named.id) and not asked.anyway)
    return Decided((fact,), changed=not held)


def _release(asked: AskRelease, known: Known, by: str) -> Decided:
    doing = f"releasing {asked.identifier}"
    named = _named(known, doing, asked.identifier, asked.collection, links=False)
    fact = Quarantine(
        by=by, note=asked.note, collection=named.collection, ident=named.id.hex(), quarantined=False
    )
    if named.id in known.held.released:
        return Decided((fact,), changed=False)
    if named.id in known.held.quarantined or _by_degree(known, named.id) or asked.anyway:
        return Decided((fact,), changed=True)
    raise Conflict(
        f"{doing}: it is not quarantined; to have it never quarantined for what it meets, say so: --anyway,"
        " or `anyway` in the request"
    )


def _retract(asked: AskRetract | AskRestore, known: Known, by: str) -> Decided:
    counts = isinstance(asked, AskRestore)
    doing = f"{'restoring' if counts else 'retracting'} event {asked.message_id!r}"
    seen = known.find_event(asked.message_id)
    if seen is None:
        raise NotFound(
            f"{doing}: there is no such event, or it is not applied yet; messageId is meant, and"
            " `profilelake status` says whether anything is in flight"
        )
    if not seen.sets:
        raise Invalid(f"{doing}: it has no identifiers, so it is evidence of nothing")
    if len(seen.positions) > EVENT_COPIES_MAX:
        raise Invalid(f"{doing}: it has {len(seen.positions)} copies; {EVENT_COPIES_MAX} are taken at most")
    facts = tuple(
        Retract(
            by=by,
            note=asked.note,
            message_id=asked.message_id,
            position=position.hex(),
            sets=[(collection, key.hex()) for collection, key in seen.sets],
            counts=counts,
        )
        for position in seen.positions
    )
    gone = [fact for fact in facts if _is_retracted(known.held, fact)]
    if counts:
        if not gone and not any(("retract", fact.position) in known.held.decided for fact in facts):
            raise NotFound(
                f"{doing}: nobody has retracted it; `profilelake identity decisions` lists what was decided"
            )
        return Decided(tuple(gone) or facts, changed=bool(gone))
    left = tuple(fact for fact in facts if fact not in gone)
    return Decided(left or facts, changed=bool(left))


def _rules(asked: AskRules, known: Known, by: str) -> Decided:
    held = known.held.rules
    wanted = replace(known.read_rules(asked.rules), version=held.version + 1)
    return Decided((NewRules(by=by, note=asked.note, rules=wanted),), changed=not same_meaning(held, wanted))


def _membership(asked: AskLeave | AskRejoin, known: Known, by: str) -> Decided:
    return _leave(asked, known, by) if isinstance(asked, AskLeave) else _rejoin(asked, known, by)


def _leave(asked: AskLeave, known: Known, by: str) -> Decided:
    doing = f"letting {asked.user} leave {asked.account}"
    person, account, fact = _leaving(asked, known, doing, by, left=True)
    both = person.record.profile != NOBODY and account.record.profile != NOBODY
    if both and known.belongs(known.tx, known.workspace, person.record.profile, account.record.profile):
        return Decided((fact,), changed=True)
    ended = known.held.left.get((person.id, account.id))
    if ended is not None and ended.holding():
        return Decided((fact,), changed=False)
    if asked.anyway:
        return Decided((fact,), changed=True)
    raise Conflict(
        f"{doing}: they do not belong together now ({_where(person)}, {_where(account)}); to record it"
        " nevertheless, for what may still arrive from before, say so: --anyway, or `anyway` in the request"
    )


def _rejoin(asked: AskRejoin, known: Known, by: str) -> Decided:
    doing = f"letting {asked.user} not have left {asked.account}"
    person, account, fact = _leaving(asked, known, doing, by, left=False)
    ended = known.held.left.get((person.id, account.id))
    if ended is None or not ended.positions:
        raise NotFound(
            f"{doing}: nobody has said they left; `profilelake identity decisions` lists what was decided"
        )
    return Decided((fact,), changed=bool(ended.holding()))


def _leaving(
    asked: AskLeave | AskRejoin, known: Known, doing: str, by: str, *, left: bool
) -> tuple[_Named, _Named, Leave]:
    if asked.collection is not None:
        raise Invalid(f"{doing}: the user is of users, the account of accounts; leave `collection` out")
    person = _named(known, doing, asked.user, "users", links=False)
    account = _named(known, doing, asked.account, "accounts", links=False)
    fact = Leave(by=by, note=asked.note, user=person.id.hex(), account=account.id.hex(), left=left)
    return person, account, fact


def same_meaning(one: IdentityRules, other: IdentityRules) -> bool:
    """Tell whether two versions of the rules say the same."""
    return _plain(one) == _plain(other)


def _plain(rules: IdentityRules) -> IdentityRules:
    types = sorted(rules.types, key=lambda rule: (rule.collection, rule.priority, rule.type))
    return replace(rules, version=0, types=tuple(types))


def _apart(known: Known, one: bytes, other: bytes) -> bool:
    return other in known.held.unlinks.get(one, ())


def _by_degree(known: Known, ident: bytes) -> bool:
    record = known.tx.get(known.workspace, Db.QUARANTINE, ident)
    return record is not None and decode_quarantine(record).active and ident not in known.held.released


def _is_retracted(held: Standing, fact: Retract) -> bool:
    place = bytes.fromhex(fact.position)
    return all(place in held.retracted.get(bytes.fromhex(key), ()) for _, key in fact.sets)


def _where(named: _Named) -> str:
    if named.record.profile == NOBODY:
        return f"{named.identifier} is in none"
    return f"{named.identifier} is in {public_id(named.collection, named.record.profile)}"


def entry_of(workspace: str, fact: Fact) -> Entry:
    """Return the entry of the event log that records a fact: no event, of no source."""
    return Entry(workspace, "", Kind.FACT, Flags.NONE, 0, EXTRACTION_VERSION, "", "", encode(fact))
