"""Audiences and computed traits as Segment's Public API shows them, with what only this program has."""

import re
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import msgspec

from profilelake.audiences.history import Authors
from profilelake.errors import Invalid
from profilelake.semantics.definitions import (
    EXTERNAL_IDS,
    Definition,
    Held,
    Kind,
    Target,
    computation_id,
    is_audience,
    is_trait,
)
from profilelake.semantics.times import format_time
from profilelake.state.computed import DefinitionRecord

Type: TypeAlias = Literal["USERS", "ACCOUNTS"]
NAME_CHARACTERS_MAX: Final = 200
DESCRIPTION_CHARACTERS_MAX: Final = 2_000
EXTERNAL_IDS_MAX: Final = 20

_TARGETS: Final[dict[str, Target]] = {"USERS": "users", "ACCOUNTS": "accounts"}
_STATUSES: Final = {
    "backfilling": "Backfilling",
    "computing": "Computing",
    "live": "Live",
    "failed": "Failed",
    "disabled": "Disabled",
}


class Said(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What is computed, in the language of conditions."""

    query: str
    type: Type | None = None


class AudienceOptions(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Which events count, and which identifiers a member must have one of."""

    include_historical_data: bool | None = None
    filter_by_external_ids: list[str] | None = None


class TraitOptions(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Which events count. People without a name of their own always do."""

    include_historical_data: bool | None = None
    include_anonymous_users: Literal[True] | None = None


class NewAudience(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """An audience to add; its key is made from the name where none is given."""

    name: str
    definition: Said
    audience_type: Type = "USERS"
    key: str | None = None
    enabled: bool = True
    description: str | None = None
    options: AudienceOptions | None = None


class NewComputedTrait(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A computed trait to add; its key is made from the name where none is given."""

    name: str
    definition: Said
    key: str | None = None
    enabled: bool = True
    description: str | None = None
    options: TraitOptions | None = None


class AudienceChange(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What is to be changed of an audience; what is not given stays."""

    name: str | None = None
    definition: Said | None = None
    enabled: bool | None = None
    description: str | None = None
    options: AudienceOptions | None = None


class ComputedTraitChange(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What is to be changed of a computed trait; what is not given stays."""

    name: str | None = None
    definition: Said | None = None
    enabled: bool | None = None
    description: str | None = None
    options: TraitOptions | None = None


class NewPreview(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A definition to try out; nothing is kept of it but the answer, for a while."""

    definition: Said
    audience_type: Type = "USERS"
    options: AudienceOptions | None = None


New: TypeAlias = NewAudience | NewComputedTrait
Wanted: TypeAlias = AudienceChange | ComputedTraitChange


@dataclass(frozen=True, slots=True)
class Seen:
    """A definition with all that is known of it."""

    held: Held
    authors: Authors
    record: DefinitionRecord | None = None

    @property
    def id(self) -> str:
        """Its id as clients know it."""
        return computation_id(self.held.definition.kind, self.held.created)

    @property
    def key(self) -> str:
        """Its key."""
        return self.held.definition.key


def defined_by(new: New) -> Definition:
    """Return the definition that a request wants added.

    Raises:
        Invalid: a member of it cannot be used.
    """
    audience = isinstance(new, NewAudience)
    kind: Kind = "audience" if audience else "trait"
    said = new.audience_type if isinstance(new, NewAudience) else new.definition.type or "USERS"
    if new.definition.type not in (None, said):
        raise Invalid(
            f"definition.type={new.definition.type}: the audience is of {said}; say the same twice or once"
        )
    made = Definition(
        key=key_of(new.name) if new.key is None else new.key,
        kind=kind,
        query=new.definition.query.strip(),
        target=_TARGETS[said],
        name=_bounded("name", new.name, NAME_CHARACTERS_MAX),
        description=_bounded("description", new.description or "", DESCRIPTION_CHARACTERS_MAX),
        enabled=new.enabled,
    )
    return _with_options(made, new.options)


def changed_by(wanted: Wanted, before: Definition) -> Definition:
    """Return a definition as a request wants it. Raises Invalid where a member cannot be used."""
    said = wanted.definition
    if said is not None and said.type is not None and _TARGETS[said.type] != before.target:
        raise Invalid(f"definition.type={said.type}: it is about {before.target}, which never changes")
    made = replace(
        before,
        name=before.name if wanted.name is None else _bounded("name", wanted.name, NAME_CHARACTERS_MAX),
        description=before.description
        if wanted.description is None
        else _bounded("description", wanted.description, DESCRIPTION_CHARACTERS_MAX),
        enabled=before.enabled if wanted.enabled is None else wanted.enabled,
        query=before.query if said is None else said.query.strip(),
        managed_by="",
    )
    return _with_options(made, wanted.options)


def previewed(new: NewPreview) -> Definition:
    """Return the definition that a request wants tried out."""
    made = Definition(
        key="preview", kind="audience", query=new.definition.query.strip(), target=_TARGETS[new.audience_type]
    )
    return _with_options(made, new.options)


def key_of(name: str) -> str:
    """Return the key that is made from a name. Raises Invalid where nothing is left of it."""
    key = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:100]
    if not key:
        raise Invalid(f"name={name[:40]!r}: no key can be made from it; give a `key`")
    return key


def audience_shape(seen: Seen, space: str) -> dict[str, Any]:
    """Return an audience as clients see it."""
    definition = seen.held.definition
    members = 0 if seen.record is None else seen.record.members
    return _shape(seen, space) | {
        "audienceType": definition.target.upper(),
        "computeCadence": {"type": _cadence(definition)},
        "size": {"count": members, "type": definition.target.upper()},
        "options": {
            "includeHistoricalData": definition.historical,
            "filterByExternalIds": list(definition.external_ids),
        },
    }


def trait_shape(seen: Seen, space: str) -> dict[str, Any]:
    """Return a computed trait as clients see it."""
    return _shape(seen, space) | {
        "options": {"includeHistoricalData": seen.held.definition.historical, "includeAnonymousUsers": True}
    }


def schedules(definition: Definition) -> list[dict[str, Any]]:
    """Return when a definition is computed, beyond always."""
    if _cadence(definition) == "REALTIME":
        return []
    return [
        {
            "id": f"sch_{definition.key}",
            "strategy": "PERIODIC",
            "config": {"type": "PERIODIC", "interval": definition.every_seconds * 1000},
        }
    ]


def _shape(seen: Seen, space: str) -> dict[str, Any]:
    definition, authors = seen.held.definition, seen.authors
    return {
        "id": seen.id,
        "spaceId": space,
        "name": definition.name or definition.key,
        "description": definition.description,
        "key": definition.key,
        "enabled": definition.enabled,
        "definition": {"query": definition.query, "type": definition.target.upper()},
        "status": _status(seen),
        "createdBy": authors.created_by,
        "createdAt": format_time(authors.created_at),
        "updatedBy": authors.updated_by,
        "updatedAt": format_time(authors.updated_at),
        "version": seen.held.version,
        "managedBy": definition.managed_by or None,
        "failureReason": (seen.record.failure if seen.record is not None else "") or None,
    }


def _status(seen: Seen) -> str:
    if not seen.held.definition.enabled:
        return "Disabled"
    return "Backfilling" if seen.record is None else _STATUSES.get(seen.record.status, "Computing")


def _cadence(definition: Definition) -> str:
    return "REALTIME" if definition.kind in ("audience", "trait") else "BATCH"


def _bounded(name: str, text: str, characters_max: int) -> str:
    if len(text) > characters_max:
        raise Invalid(f"{name}: it has {len(text):,} characters, the most is {characters_max:,}")
    return text


def _with_options(definition: Definition, options: AudienceOptions | TraitOptions | None) -> Definition:
    if options is None:
        return definition
    made = definition
    if options.include_historical_data is not None:
        made = replace(made, historical=options.include_historical_data)
    ids = options.filter_by_external_ids if isinstance(options, AudienceOptions) else None
    if ids is not None:
        if not all(ids) or len(ids) > EXTERNAL_IDS_MAX:
            raise Invalid(
                f"options.filterByExternalIds: name at most {EXTERNAL_IDS_MAX} types of identifiers"
            )
        if definition.target == "accounts" and tuple(ids) != EXTERNAL_IDS:
            raise Invalid("options.filterByExternalIds: accounts ask for no identifiers; leave it out")
        made = replace(made, external_ids=tuple(dict.fromkeys(ids)))
    return made


def is_of(noun: str, held: Held) -> bool:
    """Tell whether a definition is one of `audiences` or of `computed-traits`."""
    return (is_audience if noun == "audiences" else is_trait)(held.definition.kind)
