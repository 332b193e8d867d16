"""Cases about conditions on the whole pipeline: calls are received, definitions are facts, and time passes.

Each case has people and definitions of its own: their names begin with its number. Cases that are asked at one
time share a pipeline; what they tell of later times is not sent.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from condition_cases import ASKED, Case, nothing
from condition_worlds import Call, Defined
from pipeline_driver import KEY, WORKSPACE, Desk, LogBuilder, Message
from profilelake.audiences.facts import Define
from profilelake.eventlog import Record
from profilelake.identity.facts import Leave
from profilelake.semantics.definitions import Json
from profilelake.semantics.identifiers import Identifier, ident_id, public_id
from profilelake.semantics.rules import Collection
from profilelake.semantics.times import format_time

DAY = 86_400_000_000


def by_pipeline(told: Sequence[Case]) -> list[Json]:
    """Answer by calls to the pipeline, live, and by a backfill where a definition came after events."""
    found: dict[int, Json] = {}
    at_of = {number: case.at for number, case in enumerate(told)}
    for at, together in groupby(sorted(at_of, key=at_of.__getitem__), key=at_of.__getitem__):
        found |= _at(at, {number: told[number] for number in together})
    return [found[number] for number in range(len(told))]


def _at(at: int, together: dict[int, Case]) -> dict[int, Json]:
    with tempfile.TemporaryDirectory() as folder:
        desk, log = Desk(Path(folder)), LogBuilder("00000000000000aa")
        try:
            cases = [_OnPipeline(number, case) for number, case in together.items()]
            desk.apply([record for one in cases for record in one.records(log, at)])
            desk.settle(at)
            assert set(desk.statuses().values()) == {"live"}
            return {one.number: one.answer(desk) for one in cases}
        finally:
            desk.close()


class _OnPipeline:
    """One case, told in words of its own."""

    def __init__(self, number: int, case: Case) -> None:
        self.number = number
        self._case = case
        self._world = case.world()
        self._made = case.definitions()

    def records(self, log: LogBuilder, at: int) -> Iterator[Record]:
        """Yield what is received: who there is, definitions, and events in their order."""
        yield log.record(at, list(self._introduced(at)))
        if not self._case.told.get("users", True):
            yield log.decision(at, self._left())
        waiting = list(self._made)
        for call in self._world.calls:
            while waiting and int.from_bytes(waiting[0].created, "big") < call.number:
                yield self._defined(log, at, waiting.pop(0))
            if call.timestamp <= at:
                yield log.record(at, [self._message(call)], source_id=call.source_id)
        for one in waiting:
            yield self._defined(log, at, one)

    def answer(self, desk: Desk) -> Json:
        """Return what the definition is worth in the state."""
        collection: Collection = "accounts" if self._case.accounts else "users"
        who = Identifier("group_id", self._own("group")) if self._case.accounts else self._who(0)
        with desk.state.read(WORKSPACE) as tx:
            known = tx.ident(WORKSPACE, ident_id(KEY, collection, who))
        assert known is not None
        text = desk.values().get((self._own(ASKED), public_id(collection, known.profile)))
        return nothing(self._made[-1].root) if text is None else json.loads(text)

    def _own(self, name: str) -> str:
        return f"c{self.number}_{name}"

    def _traits(self, traits: Any) -> dict[str, Any]:
        """Return traits under their names; one that a definition has as its key is named like it."""
        keys = {one.definition.key for one in self._made}
        return {self._own(name) if name in keys else name: value for name, value in traits.items()}

    def _who(self, user: int) -> Identifier:
        type = "user_id" if "user_id" in self._world.people[user].identifier_types else "anonymous_id"
        return Identifier(type, self._own(f"user{user}"))

    def _introduced(self, at: int) -> Iterator[Message]:
        early = format_time(at - 3_000 * DAY)
        for place, person in enumerate(self._world.people):
            yield self._named(place) | {
                "type": "identify", "traits": self._traits(person.traits), "timestamp": early
            }  # fmt: skip
        for account in self._world.accounts:
            for user in account.users:
                yield self._named(user) | self._group(account.traits, early)
            if not account.users:
                yield {"userId": self._own("nobody")} | self._group(account.traits, early)

    def _group(self, traits: Any, at: str) -> Message:
        return {
            "type": "group", "groupId": self._own("group"), "traits": self._traits(traits), "timestamp": at
        }  # fmt: skip

    def _left(self) -> Leave:
        user, account = Identifier("user_id", self._own("nobody")), Identifier("group_id", self._own("group"))
        return Leave(
            by="case",
            user=ident_id(KEY, "users", user).hex(),
            account=ident_id(KEY, "accounts", account).hex(),
        )

    def _named(self, user: int) -> Message:
        who = self._who(user)
        return {"userId" if who.type == "user_id" else "anonymousId": who.value}

    def _message(self, call: Call) -> Message:
        """Return a call; those of the second set of a person name a device too."""
        message = self._named(call.set // 2) | {"type": call.type, "timestamp": format_time(call.timestamp)}
        if call.set % 2 and "userId" in message:
            message["anonymousId"] = self._own(f"device{call.set}")
        if call.name is not None:
            message["event" if call.type == "track" else "name"] = call.name
        for name, value in (("properties", call.properties), ("context", call.context)):
            if value is not None:
                message[name] = value
        return message

    def _defined(self, log: LogBuilder, at: int, one: Defined) -> Record:
        query = one.definition.query
        for other in self._made:
            query = query.replace(
                f"trait('{other.definition.key}')", f"trait('{self._own(other.definition.key)}')"
            )
        definition = replace(one.definition, key=self._own(one.definition.key), query=query)
        return log.definition(at, Define(by="case", definition=definition))
