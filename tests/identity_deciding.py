"""Decisions on a desk: asked for, applied as the pipeline does, planned before."""

from pathlib import Path

from pipeline_driver import KEY, START, WORKSPACE, Desk, LogBuilder, Message
from profilelake.eventlog import Record
from profilelake.identity.decide import Asked, Decided, Deciding, EventSeen, entry_of
from profilelake.identity.facts import Fact
from profilelake.pipeline.effects import COMPONENT_SETS_MAX, plan
from profilelake.pipeline.events_by_id import find_event
from profilelake.pipeline.told_effects import Effects
from profilelake.profiles.memberships import belongs
from profilelake.semantics.rules import IdentityRules

BY = "token of a test"
LOG = "00000000000000aa"


def fact_record(log: LogBuilder, received_at: int, fact: Fact) -> Record:
    """Return the record of a decision, as the server writes it."""
    entry = entry_of(WORKSPACE, fact)
    return log.record(
        received_at, [], body=entry.body, kind=entry.kind, source_id=entry.source_id, events=entry.events
    )


class Decisions:
    """A desk on which people decide: each call is one micro-batch. `rules` are what a file would say."""

    def __init__(self, directory: Path, *, log: LogBuilder | None = None, now: int = START) -> None:
        self.desk = Desk(directory)
        self.rules = self.desk.setup.rules
        self._log = log or LogBuilder(LOG)
        self._now = now
        self.deciding = Deciding(
            state=lambda: self.desk.state,
            workspace=WORKSPACE,
            key=lambda: KEY,
            rules=self.desk.setup.rules,
            read_rules=self._read_rules,
            belongs=belongs,
        )

    def _read_rules(self, _text: str | None) -> IdentityRules:
        return self.rules

    def send(self, *messages: Message) -> None:
        """Have events arrive, one after the other."""
        for message in messages:
            self._now += 1
            self.desk.apply([self._log.record(self._now, [message])])

    def find_event(self, message_id: str) -> EventSeen | None:
        self.desk.publish()
        return find_event(self.desk.lake, WORKSPACE, message_id)

    def ask(self, asked: Asked) -> Decided:
        """Return what a request comes to."""
        return self.deciding.decide(asked, BY, self.find_event)

    def plan(
        self, asked: Asked, *, component_sets_max: int = COMPONENT_SETS_MAX, examples: int = 1000
    ) -> Effects:
        """Return what a request would change."""
        self.desk.publish()
        decided = self.ask(asked)
        return plan(
            self.desk.state,
            WORKSPACE,
            self.deciding.held,
            decided.facts if decided.changed else (),
            self.desk.lake,
            component_sets_max=component_sets_max,
            examples=examples,
        )

    def do(self, asked: Asked) -> Decided:
        """Decide, and have it applied."""
        decided = self.ask(asked)
        for fact in decided.facts if decided.changed else ():
            self._now += 1
            self.desk.apply([fact_record(self._log, self._now, fact)])
        return decided

    def profiles(self) -> dict[str, set[str]]:
        """Return the identifiers of all profiles, as published."""
        self.desk.publish()
        tables = self.desk.lake_tables("identity_map", "identifiers")
        names = {row[0]: f"{row[2]}:{row[3]}" for row in tables["identifiers"]}
        found: dict[str, set[str]] = {}
        for ident, _, profile, *_ in tables["identity_map"]:
            found.setdefault(profile, set()).add(names[ident])
        return found
