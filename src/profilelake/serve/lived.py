"""One profile with all that definitions ask of it, now or at a time in the past, for the plain reference to judge.

The facts come from the lake and what is behind it, not from partials: so this also tells whether those are right.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from profilelake.audiences.facts import decode, in_values
from profilelake.errors import Invalid
from profilelake.profiles.memberships import members_page
from profilelake.semantics.conditions.effort import EVENTS_LOOKED_AT_MAX, effort
from profilelake.semantics.conditions.evaluate import Occurred, Subject, account, answers, occurred
from profilelake.semantics.definitions import Held, Json, standing
from profilelake.semantics.rules import Collection
from profilelake.serve import _past
from profilelake.serve._past import SET_COLUMN, Past
from profilelake.serve._profile import Found
from profilelake.state.computed import definition_records, entity_rows_key
from profilelake.state.store import Db, Tx
from profilelake.traits.steps import Plan, planned

EVENTS_MAX: Final = 200_000
"""Events of one profile that are looked at for one question."""
USERS_MAX: Final = 200
"""Linked users of an account that are looked at for one question."""
_WHAT: Final = "evaluating definitions for a profile"
_CALLS: Final = {"Page Viewed": "page", "Screen Viewed": "screen"}
_EVENTS: Final = """
    SELECT type, CASE type WHEN 'track' THEN event ELSE name END, epoch_us(timestamp), position, source_id,
        properties, context
    FROM ({events})
    WHERE epoch_us(received_at) <= $at
        AND CASE type WHEN 'track' THEN list_contains($names, event) ELSE list_contains($calls, type) END
    LIMIT $most
"""


def held_at(tx: Tx, space: str, at: int | None = None) -> Mapping[str, Held]:
    """Return the definitions in force at a time (microseconds, included), or now."""
    facts = []
    for position, body in tx.items(space, Db.DEFINITION_FACT):
        if at is not None and int.from_bytes(position[:8], "big") > at:
            break
        fact = in_values(position, decode(body))
        if fact is not None:
            facts.append(fact)
    return standing(facts)


def needed(plan: Plan, key: str) -> Plan:
    """Return a definition of a plan with all that it reads, in the plan's order."""
    by_key = {one.held.definition.key: one for one in plan}
    wanted: set[str] = set()
    waiting = [key]
    while waiting:
        one = by_key.get(waiting.pop())
        if one is not None and one.held.definition.key not in wanted:
            wanted.add(one.held.definition.key)
            waiting += one.reads
    return tuple(one for one in plan if one.held.definition.key in wanted)


@dataclass(frozen=True, slots=True)
class Lives:
    """Profiles with their events and traits, in one read transaction, for the definitions of a plan.

    `at` is the time of evaluation, `past` where events are read.
    """

    past: Past
    at: int
    plan: Plan

    def subject(self, found: Found) -> Subject:
        """Return a profile with all values of the plan among its traits, and those of its users among theirs.

        Raises:
            Invalid: too much has to be looked through.
            FileNotFoundError: a run was merged away since the transaction began; begin another one.
        """
        bare = self._bare(found)
        self._check_effort(bare)
        known = [(one.held.definition, one.root, one.held.created) for one in self.plan]
        worth = answers(known, bare, self.at, accounts=found.collection == "accounts")
        users = [
            replace(user, traits={**user.traits, **answers(known, user, self.at)}) for user in bare.users
        ]
        return replace(bare, traits={**bare.traits, **worth}, users=users)

    def _check_effort(self, bare: Subject) -> None:
        efforts = {
            one.held.definition.key: sum(effort(one.root, subject) for subject in (bare, *bare.users))
            for one in self.plan
        }
        total = sum(efforts.values())
        if total > EVENTS_LOOKED_AT_MAX:
            raise Invalid(
                f"evaluating definitions for a profile: events would be looked at {total:,} times for other events, most"
                f" of it for {max(efforts, key=efforts.__getitem__)}, and the limit is {EVENTS_LOOKED_AT_MAX:,}; read"
                " the value that was announced, or ask the lake with SQL"
            )

    def _bare(self, found: Found) -> Subject:
        traits: dict[str, Json] = {
            name: json.loads(write.value) for name, write in found.traits().items() if write.value is not None
        }
        # What SQL said last is a fact to everything else.
        traits |= {name: json.loads(given.value) for name, given in found.computed().items() if given.by_sql}
        entities = {
            slug: _linked_rows(found, slug) for slug in sorted({e for one in self.plan for e in one.entities})
        }
        if found.collection == "accounts":
            return account(self._users(found), traits, entities)
        names = {name for one in self.plan for step in one.steps.values() for name in step.names}
        types = frozenset(type for _, type in found.record.idents)
        return Subject(tuple(self._events(found, names)), traits, entities=entities, identifier_types=types)

    def _users(self, found: Found) -> list[Subject]:
        links, more = members_page(found.tx, found.space, "accounts", found.record, b"", USERS_MAX)
        if more is not None:
            raise Invalid(
                f"evaluating definitions for an account of more than {USERS_MAX} linked users: ask the lake with SQL"
            )
        linked = [link.other_profile for link in links if link.unlinked_at is None]
        records = found.tx.profiles(found.space, linked)
        return [
            self._bare(Found(found.tx, found.space, "users", key, records[key]))
            for key in linked
            if key in records
        ]

    def _events(self, found: Found, names: Iterable[str]) -> Iterable[Occurred]:
        wanted = sorted(names)
        if not wanted:
            return
        collection: Collection = found.collection
        where = self.past.events(found.tx, found.space, collection, found.record.sets, received_to=self.at)
        with self.past.asking(_WHAT) as connection:
            rows: list[Any] = connection.execute(
                _EVENTS.format(
                    events=_past.select(connection, where, SET_COLUMN[collection], found.record.sets)
                ),
                {
                    "at": self.at,
                    "names": wanted,
                    "calls": [_CALLS[name] for name in wanted if name in _CALLS],
                    "most": EVENTS_MAX + 1,
                },
            ).fetchall()
        if len(rows) > EVENTS_MAX:
            raise Invalid(
                f"evaluating definitions for a profile of more than {EVENTS_MAX:,} such events: ask the lake with SQL"
            )
        for type, name, timestamp, position, source_id, properties, context in rows:
            event = occurred(
                type,
                name,
                timestamp,
                position=position,
                source_id=source_id,
                properties=_object(properties),
                context=_object(context),
            )
            if event is not None:
                yield event


def plan_at(tx: Tx, space: str, at: int | None = None) -> Plan:
    """Return all definitions in force at a time that are not SQL, each after those it reads."""
    enabled = {key: held for key, held in held_at(tx, space, at).items() if held.definition.enabled}
    return planned(enabled)


def _object(text: str | None) -> dict[str, Json]:
    found = {} if text is None else json.loads(text)
    return found if isinstance(found, dict) else {}


def _linked_rows(found: Found, slug: str) -> list[dict[str, Json]]:
    """Return the rows of an entity that a profile is linked with, as the last run of its query found them."""
    known = definition_records(found.tx, found.space).get(slug)
    if known is None:
        return []
    keys = [entity_rows_key(known.number, key) for key in found.record.sets]
    kept = found.tx.get_many(found.space, Db.ENTITY, keys)
    return [row for text in kept.values() for row in json.loads(text)]
