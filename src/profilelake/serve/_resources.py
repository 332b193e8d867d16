"""What a profile is: its traits, external ids, metadata. Events and links have modules of their own."""

from typing import Final

import msgspec

from profilelake.semantics.identifiers import parse_public_id, public_id
from profilelake.semantics.rules import Collection
from profilelake.serve._answer import not_a_cursor, time_text
from profilelake.serve._computed import CLASSES
from profilelake.serve._profile import Cursor, Found, cursor
from profilelake.serve._request import Query
from profilelake.serve._visible import is_consent
from profilelake.state import activity
from profilelake.state.recent import RunReader
from profilelake.state.records import IdentRecord, received_at

TRAITS_DEFAULT: Final = 10
TRAITS_MAX: Final = 200
EXTERNAL_IDS_DEFAULT: Final = 10
EXTERNAL_IDS_MAX: Final = 25

_MAPPING: Final = "map_"


class VerboseTrait(msgspec.Struct):
    """A trait with `verbose=true`."""

    value: msgspec.Raw
    source_id: str
    updated_at: str


class TraitsPage(msgspec.Struct):
    """Answer of `/traits`."""

    traits: dict[str, msgspec.Raw | VerboseTrait]
    cursor: Cursor


def traits(found: Found, query: Query) -> TraitsPage:
    """Return one page of traits, sorted by name; a page starts at the name its cursor carries.

    Computed traits and the audiences the profile is in (true) stand among those that were sent; a definition
    wins over a trait of its name. Values are the JSON text that was stored, so numbers come out digit by digit
    as they came in.
    """
    limit = query.limit(TRAITS_DEFAULT, TRAITS_MAX)
    start = query.text("next")
    verbose = query.flag("verbose")
    only = query.choice("class", CLASSES)
    computed = found.computed()
    if only:
        computed = {name: value for name, value in computed.items() if value.of == only}
    written = {} if only else found.traits()
    names = [
        name
        for name, write in written.items()
        if write.value is not None and name not in computed and not is_consent(name)
    ]
    names += computed
    chosen = _chosen(query.names("include"), found.scope.traits)
    if chosen is not None:
        names = [name for name in names if name in chosen]
    if start:
        names = [name for name in names if name >= start]
    names.sort()
    page: dict[str, msgspec.Raw | VerboseTrait] = {}
    for name in names[:limit]:
        given = computed.get(name)
        if given is not None:
            value, source, at = given.value, given.of, given.since
        else:
            write = written[name]
            value, source, at = write.value or "null", write.source_id, write.timestamp
        raw = msgspec.Raw(value)
        page[name] = VerboseTrait(raw, source, time_text(at)) if verbose else raw
    following = names[limit] if len(names) > limit else None
    return TraitsPage(page, cursor(found, "traits", query, limit, following))


def _chosen(wanted: frozenset[str], allowed: frozenset[str] | None) -> frozenset[str] | None:
    """Return the traits that are asked for and may be read, None where that is all of them."""
    if allowed is None:
        return wanted or None
    return wanted & allowed if wanted else allowed


class ExternalId(msgspec.Struct):
    """One identifier of a profile, as `/external_ids` shows it."""

    source_id: str
    collection: str
    id: str
    type: str
    created_at: str
    encoding: str
    first_message_id: str


class ExternalIdsPage(msgspec.Struct):
    """Answer of `/external_ids`."""

    data: list[ExternalId]
    cursor: Cursor


def external_id(collection: Collection, record: IdentRecord) -> ExternalId:
    """Return an identifier as it is shown."""
    return ExternalId(
        record.source_id,
        collection,
        record.value,
        record.type,
        time_text(record.created_at),
        "none",
        record.message_id,
    )


def external_ids(found: Found, query: Query) -> ExternalIdsPage:
    """Return one page of identifiers in the order of their mapping ids, which cursors carry."""
    limit = query.limit(EXTERNAL_IDS_DEFAULT, EXTERNAL_IDS_MAX)
    types = query.names("include")
    start = _parse_mapping(query.text("next"))
    keys = sorted(key for key, type in found.record.idents if key >= start and (not types or type in types))
    page = keys[:limit]
    records = found.tx.idents(found.space, page)
    data = [external_id(found.collection, records[key]) for key in page if key in records]
    following = _mapping(keys[limit]) if len(keys) > limit else None
    return ExternalIdsPage(data, cursor(found, "external_ids", query, limit, following))


class Sightings(msgspec.Struct):
    """When a profile was first and last heard of, and through what."""

    created_at: str
    updated_at: str
    expires_at: str | None
    first_message_id: str
    first_source_id: str
    last_message_id: str
    last_source_id: str


class Metadata(Sightings):
    """Answer of `/metadata`: clients read the fields at the root or inside `metadata`."""

    segment_id: str
    metadata: Sightings


def metadata(found: Found, query: Query, reader: RunReader) -> Metadata:
    """Return when the profile was first and last heard of, by arrival.

    Raises:
        FileNotFoundError: a run was merged away since the transaction began; begin another one.
    """
    query.flag("verbose")
    sets = found.tx.sets(found.space, found.record.sets)
    active = activity.read(found.tx, found.space, reader, found.record.sets)
    if not sets:
        at = time_text(received_at(found.record.position))
        seen = Sightings(at, at, None, "", "", "", "")
    else:
        first = min(sets.values(), key=lambda record: record.position)
        last = max((active.get(key, record) for key, record in sets.items()), key=lambda seen: seen.position)
        seen = Sightings(
            time_text(received_at(first.position)),
            time_text(received_at(last.position)),
            None,
            first.message_id,
            first.source_id,
            last.message_id,
            last.source_id,
        )
    return Metadata(**msgspec.structs.asdict(seen), segment_id=found.segment_id, metadata=seen)


def _mapping(key: bytes) -> str:
    return _MAPPING + public_id("users", key).partition("_")[2]


def _parse_mapping(text: str) -> bytes:
    """Return the key inside a mapping id, the smallest one where none is given."""
    if not text:
        return b""
    parsed = parse_public_id("use_" + text.removeprefix(_MAPPING)) if text.startswith(_MAPPING) else None
    if parsed is None:
        raise not_a_cursor()
    return parsed[1]
