"""One profile as a whole, for the command line."""

from typing import Any, Final

import msgspec

from profilelake.errors import Invalid, Unavailable
from profilelake.identity.standing import rules_in_force
from profilelake.profiles.fold import identifiers_text, traits_text
from profilelake.semantics.identifiers import parse_public_id
from profilelake.semantics.rules import Collection, segment_defaults
from profilelake.serve._answer import Refused, time_text
from profilelake.serve._computed import AUDIENCE
from profilelake.serve._profile import Found, find
from profilelake.state import activity
from profilelake.state.recent import RunReader
from profilelake.state.records import received_at
from profilelake.state.store import State

_UNREADABLE: Final = 400
_ATTEMPTS: Final = 5


def whole_profile(
    state: State, workspace: str, runs: RunReader, identifier_key: bytes, collection: Collection, id: str
) -> dict[str, Any] | None:
    """Return identifiers, traits and when the profile was seen; None where there is none.

    `id` is `type:value` or a profile id, an earlier one included; `runs` reads the recent events.

    Raises:
        Invalid: it is neither.
        Unavailable: run files went away faster than they could be read.
    """
    type, colon, value = id.partition(":")
    if parse_public_id(id) is None and not (type and colon and value):
        raise Invalid(f"profile get {id!r}: give TYPE:VALUE, such as user_id:42, or a profile id")
    for _ in range(_ATTEMPTS):
        try:
            with state.read(workspace) as tx:
                rules = rules_in_force(tx, workspace, segment_defaults())
                return _whole(find(tx, workspace, collection, id, identifier_key, rules), runs)
        except Refused as refused:
            if refused.status == _UNREADABLE:
                raise Invalid(f"profile get {id!r}: {refused}") from refused
            return None
        except FileNotFoundError:
            continue  # a run was merged away since the transaction began
    raise Unavailable(f"profile get {id!r}: run files go away faster than they are read; try again")


def _whole(found: Found, runs: RunReader) -> dict[str, Any]:
    tx, workspace = found.tx, found.space
    record = found.record
    idents = tx.idents(workspace, [key for key, _ in record.idents])
    sets = tx.sets(workspace, record.sets).values()
    active = activity.read(tx, workspace, runs, record.sets).values()
    return {
        "profile_id": found.segment_id,
        "collection": found.collection,
        "identifiers": msgspec.json.decode(identifiers_text(record, idents)),
        "traits": msgspec.json.decode(traits_text(found.traits())),
        **_computed(found),
        "first_seen_at": time_text(received_at(min(seen.position for seen in sets))),
        "last_seen_at": time_text(received_at(max(seen.position for seen in active))),
        "event_count": sum(seen.count for seen in active),
    }


def _computed(found: Found) -> dict[str, Any]:
    """Return computed traits and audiences apart; nothing where no definition gives any."""
    values = found.computed()
    if not values:
        return {}
    traits = {
        key: msgspec.json.decode(given.value) for key, given in sorted(values.items()) if given.of != AUDIENCE
    }
    audiences = sorted(key for key, given in values.items() if given.of == AUDIENCE)
    return {"computed_traits": traits, "audiences": audiences}
