"""The cases of `spec/identity` as tables of facts, for whatever resolves a whole lake."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import yaml

from fold_cases import KEY, SERVER, WEB, Case, Event, fact_tables
from identity_cases import case_rules, decision_of, events_of, identifier_of, position_of, received_at
from identity_histories import World
from planned_identity import Cutting, Rows, check_against_reference, fact_files, planned
from profilelake.engines.engine import Engine
from profilelake.pipeline.rebuild import standing_of
from profilelake.semantics import identity
from profilelake.semantics.facts import Decision, Fact, Retract
from profilelake.semantics.identity import Sighting
from profilelake.semantics.rules import COLLECTIONS, Demotion, IdentityRules


@dataclass(frozen=True)
class Written:
    """A case: what happened, with the accounts' part of it, what was decided, and the first rules."""

    case: Case
    accounts: list[Sighting]

    @property
    def rules(self) -> IdentityRules:
        """The rules at the beginning."""
        return self.case.rules

    @property
    def decisions(self) -> list[Fact]:
        """What was decided."""
        return self.case.decisions


def written(path: Path, demotion: Demotion) -> Written:
    """Read a case; positions are as long as in a lake."""
    told = yaml.safe_load(path.read_text())
    events = list(events_of(told["events"]))
    decisions = [
        Fact(_long(position_of(len(events) + number, made)), _placed(decision_of(made, events, demotion)))
        for number, made in enumerate(told.get("decisions", []))
    ]
    seen, accounts = [], []
    for number, event in enumerate(events):
        at, position = received_at(event), _long(position_of(number, event))
        trusted = event.get("trusted", True)
        sighting = Sighting(frozenset(map(identifier_of, event["identifiers"])), position, at, trusted)
        groups = [identifier_of(name) for name in event.get("accounts", ())]
        seen.append(
            Event(sighting, SERVER if trusted else WEB, False, {}, None, groups[0].value if groups else None)
        )
        if groups:
            accounts.append(replace(sighting, identifiers=frozenset(groups)))
    rules = case_rules(told.get("rules", {}), demotion)
    return Written(Case(seen, decisions, rules, "user_wins"), accounts)


def of_world(world: World) -> Written:
    """Return a random world in the same form; it has no accounts."""
    events = [
        Event(
            replace(sighting, position=_long(sighting.position)),
            SERVER if sighting.trusted else WEB,
            False,
            {},
            None,
        )
        for sighting in world.sightings
    ]
    decisions = [Fact(_long(fact.position), _placed(fact.decision)) for fact in world.decisions]
    return Written(Case(events, decisions, world.rules, "user_wins"), [])


def check_by_plan(
    folder: Path, told: Written, cutting: Cutting | None = None, engine: Engine | None = None
) -> None:
    """The plan says of a case what the reference says."""
    # Windows of cases are shorter than a day, so each event is a row of its own.
    tables = fact_tables(told.case, day=1)
    with duckdb.connect() as connection:
        connection.register("identity_facts", tables["identity_facts"])
        held = standing_of(connection, told.rules)
    found = Rows(*planned(folder, fact_files(folder, tables), held, frozenset({WEB}), cutting, engine))
    check_against(found.records(held), told)


def check_against(said: Mapping[str, Mapping[bytes, Any]], told: Written) -> None:
    """The records of all collections are what the reference says of a case."""
    for collection, sightings in zip(
        COLLECTIONS, ([event.sighting for event in told.case.events], told.accounts), strict=True
    ):
        graph = identity.resolve_facts(sightings, told.decisions, told.rules, collection=collection, key=KEY)
        check_against_reference(said, graph, collection)


def _long(position: bytes) -> bytes:
    return position[:8] + bytes(20) + position[8:]


def _placed(decision: Decision) -> Decision:
    return replace(decision, event=_long(decision.event)) if isinstance(decision, Retract) else decision
