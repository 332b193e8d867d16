"""The names there are in a lake, so that definitions that name something nobody ever sent can be told."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from profilelake.semantics.conditions.findings import Known
from profilelake.semantics.definitions import Definition, Kind, Target


@dataclass(frozen=True, slots=True)
class Names:
    """What was ever sent: properties by event, traits of people and of accounts, sources. None: nobody knows."""

    events: Mapping[str, Collection[str]] | None = None
    user_traits: Collection[str] | None = None
    account_traits: Collection[str] | None = None
    sources: Collection[str] | None = None

    def traits(self, target: Target) -> Collection[str]:
        """Return the names of traits that profiles of a kind were sent, none where nobody knows."""
        return (self.user_traits if target == "users" else self.account_traits) or ()

    def known(self, target: Target, definitions: Iterable[Definition]) -> Known:
        """Return what a definition about `target` may name, beside these definitions."""
        kinds: dict[Target, dict[str, Kind]] = {"users": {}, "accounts": {}}
        entities: dict[Target, dict[str, Collection[str]]] = {"users": {}, "accounts": {}}
        for definition in definitions:
            if definition.kind == "entity":
                entities[definition.target][definition.key] = ()  # SQL says its columns when it runs
            else:
                kinds[definition.target][definition.key] = definition.kind
        users = Known(
            events=self.events,
            traits=self.user_traits,
            definitions=kinds["users"],
            entities=entities["users"],
            sources=self.sources,
        )
        if target == "users":
            return users
        return Known(
            events=self.events,
            traits=self.account_traits,
            definitions=kinds["accounts"],
            entities=entities["accounts"],
            sources=self.sources,
            users=users,
        )


NOTHING: Final = Names()
