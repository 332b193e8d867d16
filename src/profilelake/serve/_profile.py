"""From an id in a path to a profile: by its own id, an earlier one, or any of its identifiers."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import msgspec

from profilelake.semantics.identifiers import Identifier, ident_id, normalised, parse_public_id, public_id
from profilelake.semantics.rules import Collection, IdentityRules
from profilelake.serve._answer import invalid, profile_not_found
from profilelake.serve._request import Query
from profilelake.state.records import NOBODY, ProfileRecord, TraitRecord, joined_traits
from profilelake.state.store import Tx

SEGMENT_ID: Final = "segment_id"


@dataclass(frozen=True, slots=True)
class Found:
    """One profile inside one read transaction. `key` is its founding set."""

    tx: Tx
    space: str
    collection: Collection
    key: bytes
    record: ProfileRecord

    @property
    def segment_id(self) -> str:
        """The public id."""
        return public_id(self.collection, self.key)

    def traits(self) -> dict[str, TraitRecord]:
        """Return the last write of each trait."""
        return joined_traits(self.record, self.tx.set_traits(self.space, self.record.sets))


class Cursor(msgspec.Struct):
    """Where the next page is; `url` can be followed as it stands, "" at the end."""

    url: str
    has_more: bool
    next: str
    limit: int


def cursor(found: Found, resource: str, query: Query, limit: int, start: str | None) -> Cursor:
    """Return the cursor of a page; `start` says where the next one begins, None that there is none."""
    if start is None:
        return Cursor("", False, "", limit)
    path = f"/v1/spaces/{quote(found.space, safe='')}/collections/{found.collection}/profiles"
    return Cursor(f"{path}/{found.segment_id}/{resource}?{query.onward(start, limit)}", True, start, limit)


def find(
    tx: Tx, space: str, collection: Collection, id: str, identifier_key: bytes, rules: IdentityRules
) -> Found:
    """Return the profile an id stands for today; `rules` are those in force.

    Raises:
        Refused: there is none, or the id cannot be one.
    """
    key = _founding_set(tx, space, collection, id, identifier_key, rules)
    if key == NOBODY:
        raise profile_not_found()
    record = tx.profile(space, key)
    if record is None or COLLECTION_NUMBER[collection] != record.collection:
        raise profile_not_found()
    return Found(tx, space, collection, key, record)


COLLECTION_NUMBER: Final[dict[Collection, int]] = {"users": 0, "accounts": 1}


def _founding_set(
    tx: Tx, space: str, collection: Collection, id: str, identifier_key: bytes, rules: IdentityRules
) -> bytes:
    type, colon, value = id.partition(":")
    public = parse_public_id(value if colon and type == SEGMENT_ID else id)
    if public is not None:
        key = public[1]
        if tx.profile(space, key) is not None:
            return key
        # The set founded a profile once, or could have; it lives on in the profile it leads to.
        known = tx.set(space, key)
        return NOBODY if known is None else known.profile
    if not colon:
        return NOBODY
    if "\0" in type:
        raise invalid("The parameter `id` has invalid character(s) in its type.")
    identifier = Identifier(type, normalised(rules, collection, type, value))
    owner = tx.ident(space, ident_id(identifier_key, collection, identifier))
    return NOBODY if owner is None else owner.profile
