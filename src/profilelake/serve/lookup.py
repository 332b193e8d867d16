"""One profile as a whole, for the command line."""

from typing import Any, Final

import msgspec

from profilelake.errors import Invalid
from profilelake.profiles.fold import identifiers_text, traits_text
from profilelake.semantics.identifiers import parse_public_id
from profilelake.semantics.rules import Collection
from profilelake.serve._answer import Refused, time_text
from profilelake.serve._profile import find
from profilelake.state.records import received_at
from profilelake.state.store import Tx

_UNREADABLE: Final = 400


def whole_profile(
    tx: Tx, workspace: str, identifier_key: bytes, collection: Collection, id: str
) -> dict[str, Any] | None:
    """Return identifiers, traits and when the profile was seen; None where there is none.

    `id` is `type:value` or a profile id, an earlier one included.

    Raises:
        Invalid: it is neither.
    """
    type, colon, value = id.partition(":")
    if parse_public_id(id) is None and not (type and colon and value):
        raise Invalid(f"profile get {id!r}: give TYPE:VALUE, such as user_id:42, or a profile id")
    try:
        found = find(tx, workspace, collection, id, identifier_key)
    except Refused as refused:
        if refused.status == _UNREADABLE:
            raise Invalid(f"profile get {id!r}: {refused}") from refused
        return None
    record = found.record
    idents = tx.idents(workspace, [key for key, _ in record.idents])
    sets = list(tx.sets(workspace, record.sets).values())
    return {
        "profile_id": found.segment_id,
        "collection": collection,
        "identifiers": msgspec.json.decode(identifiers_text(record, idents)),
        "traits": msgspec.json.decode(traits_text(record)),
        "first_seen_at": time_text(received_at(min(seen.position for seen in sets))),
        "last_seen_at": time_text(received_at(max(seen.last_position for seen in sets))),
        "event_count": sum(seen.count for seen in sets),
    }
