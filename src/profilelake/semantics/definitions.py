"""What a computed trait or an audience is defined to be, and which definition holds after which facts.

Definitions are facts like decisions about identity: each has a position in the order of facts, and about one
key the latest holds. Versions are counted per key from 1; the same words again are no new version.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["audience", "trait", "sql_audience", "sql_trait", "entity"]
"""An `entity` gives no values: its query gives rows that conditions ask about by `entity('slug')`."""
Target: TypeAlias = Literal["users", "accounts"]
Strategy: TypeAlias = Literal["first", "last", "all"]
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

EXTERNAL_IDS: Final = ("user_id", "email", "android.idfa", "ios.idfa")
"""A profile without an identifier of these types is in no audience that names no others."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One computed trait or audience, as somebody wrote it.

    `query` is the text of the language (for `sql_` kinds: the SELECT, whose id column is `id_type`). `key` is the
    name of the trait it gives, never changed and never used again for another kind. A member must have an
    identifier of `external_ids`; an empty tuple asks for none. `every_seconds` is how often SQL runs.
    """

    key: str
    kind: Kind
    query: str
    target: Target = "users"
    name: str = ""
    description: str = ""
    enabled: bool = True
    external_ids: tuple[str, ...] = EXTERNAL_IDS
    historical: bool = True
    """Whether events from before the definition count."""
    every_seconds: int = 0
    managed_by: str = ""
    """The file that says it, empty where nobody but the API does."""
    id_type: str = ""
    """Column of the SELECT of a `sql_` kind, and type of the identifiers in it."""


@dataclass(frozen=True, slots=True)
class Define:
    """From here on this definition holds for its key."""

    definition: Definition


@dataclass(frozen=True, slots=True)
class Drop:
    """From here on there is no such definition; its values go."""

    key: str


Decision: TypeAlias = Define | Drop


@dataclass(frozen=True, slots=True)
class Fact:
    """A decision about definitions and its place in the order of facts."""

    position: bytes
    decision: Decision


@dataclass(frozen=True, slots=True)
class Held:
    """A definition that holds: its version, and the positions of that version and of the first of its key."""

    definition: Definition
    version: int
    position: bytes
    created: bytes


def standing(facts: Iterable[Fact]) -> Mapping[str, Held]:
    """Return the definitions that hold after facts, by key.

    A key that was dropped and is defined anew goes on counting its versions: what was said of the earlier
    ones keeps its meaning.
    """
    held: dict[str, Held] = {}
    versions: dict[str, int] = {}
    for fact in sorted(facts, key=lambda fact: fact.position):
        match fact.decision:
            case Define(definition):
                before = held.get(definition.key)
                if before is not None and before.definition == definition:
                    continue
                versions[definition.key] = versions.get(definition.key, 0) + 1
                created = fact.position if before is None else before.created
                held[definition.key] = Held(definition, versions[definition.key], fact.position, created)
            case Drop(key):
                held.pop(key, None)
    return held
