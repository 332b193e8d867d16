"""What a computed trait or an audience is defined to be, and which definition holds after which facts.

Definitions are facts like decisions about identity: each has a position in the order of facts, and about one
key the latest holds. Versions are counted per key from 1; the same words again are no new version.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from profilelake.semantics.identifiers import base62

Kind: TypeAlias = Literal["audience", "trait", "sql_audience", "sql_trait", "entity"]
"""An `entity` gives no values: its query gives rows that conditions ask about by `entity('slug')`."""
Target: TypeAlias = Literal["users", "accounts"]
Strategy: TypeAlias = Literal["first", "last", "all"]
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

EXTERNAL_IDS: Final = ("user_id", "email", "android.idfa", "ios.idfa")
"""A profile without an identifier of these types is in no audience that names no others."""
KEY_CHARACTERS_MAX: Final = 100
_KEY: Final = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)


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
    return _after(facts)[0]


def last_versions(facts: Iterable[Fact]) -> Mapping[str, int]:
    """Return the last version of every key that ever was defined, dropped ones too."""
    return _after(facts)[1]


def _after(facts: Iterable[Fact]) -> tuple[dict[str, Held], dict[str, int]]:
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
    return held, versions


SQL_KINDS: Final[frozenset[Kind]] = frozenset({"sql_audience", "sql_trait", "entity"})
"""Kinds whose query is a SELECT that runs on a schedule."""


def is_audience(kind: Kind) -> bool:
    """Tell whether a definition says who is a member, and not what somebody is worth."""
    return kind in ("audience", "sql_audience")


def is_trait(kind: Kind) -> bool:
    """Tell whether a definition says what somebody is worth."""
    return kind in ("trait", "sql_trait")


def fault_of_key(key: str) -> str | None:
    """Return what is wrong with a key and what to do, None where nothing is."""
    if not _KEY.fullmatch(key):
        return "a key has Latin letters, digits, `_`, `-` and `.` only; name it otherwise"
    if key in (".", ".."):
        return "a key is part of paths, where this leads elsewhere; name it otherwise"
    if len(key) > KEY_CHARACTERS_MAX:
        return f"a key has at most {KEY_CHARACTERS_MAX} characters; name it shorter"
    return None


def computation_id(kind: Kind, created: bytes) -> str:
    """Return the id of a definition as events and management show it, from the position of its first fact."""
    digest = hashlib.blake2b(created, digest_size=16).digest()
    return ("aud_" if is_audience(kind) else "tra_") + base62(digest)


def read_first(keys: Iterable[str], read: Mapping[str, frozenset[str]]) -> list[str]:
    """Return keys so that each stands behind those it reads; the order is the same for the same keys."""
    wanted, done = set(keys), dict[str, None]()
    for start in sorted(wanted):
        waiting = [start]
        while waiting:
            missing = sorted((read.get(waiting[-1], frozenset()) & wanted) - done.keys() - set(waiting))
            if missing:
                waiting.append(missing[0])
            else:
                done.setdefault(waiting.pop())
    return list(done)
