"""From an id in a path to a profile: by its own id, an earlier one, or any of its identifiers."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import msgspec

from profilelake.kernels.one_hash import siphash128
from profilelake.semantics.identifiers import ident_prefix, normalised, parse_public_id, public_id
from profilelake.semantics.rules import Collection, IdentityRules
from profilelake.serve._answer import invalid, profile_not_found
from profilelake.serve._computed import ComputedValue, computed
from profilelake.serve._request import Query
from profilelake.state.records import NOBODY, ProfileRecord, TraitRecord, decode_traits, joined_traits
from profilelake.state.store import Db, Tx
from profilelake.workspaces.scopes import Scope

SEGMENT_ID: Final = "segment_id"
EVERYTHING: Final = Scope()
_NO_TRAITS: Final[dict[str, TraitRecord]] = {}


@dataclass(frozen=True, slots=True)
class Found:
    """One profile inside one read transaction. `key` is its founding set, `scope` what may be read of it."""

    tx: Tx
    space: str
    collection: Collection
    key: bytes
    record: ProfileRecord
    scope: Scope = EVERYTHING

    @property
    def segment_id(self) -> str:
        """The public id."""
        return public_id(self.collection, self.key)

    def traits(self) -> dict[str, TraitRecord]:
        """Return the last write of each trait."""
        sets = self.record.sets
        if len(sets) == 1:
            value = self.tx.get(self.space, Db.TRAITS, sets[0])
            return _NO_TRAITS if value is None else decode_traits(value)
        return joined_traits(self.record, self.tx.set_traits(self.space, sets))

    def computed(self) -> dict[str, ComputedValue]:
        """Return computed traits, and the audiences the profile is in."""
        return computed(self.tx, self.space, self.key)


class Cursor(msgspec.Struct):
    """Where the next page is; `url` can be followed as it stands, "" at the end."""

    url: str
    has_more: bool
    next: str
    limit: int


def cursor(found: Found, resource: str, query: Query, limit: int, start: str | None) -> Cursor:
    """Return the cursor of a page of a profile; `start` says where the next one begins, None that there is none."""
    if start is None:
        return Cursor("", False, "", limit)
    return onward(found.space, found.collection, f"/{found.segment_id}/{resource}", query, limit, start)


def onward(space: str, collection: Collection, below: str, query: Query, limit: int, start: str) -> Cursor:
    """Return the cursor of a page that is followed by another one; `below` is its path below the profiles."""
    path = f"/v1/spaces/{quote(space, safe='')}/collections/{collection}/profiles{below}"
    return Cursor(f"{path}?{query.onward(start, limit)}", True, start, limit)


def find(
    tx: Tx,
    space: str,
    collection: Collection,
    id: str,
    identifier_key: bytes,
    rules: IdentityRules,
    scope: Scope = EVERYTHING,
) -> Found:
    """Return the profile an id stands for today; `rules` are those in force, `scope` what may be read.

    Raises:
        Refused: there is none, or the id cannot be one.
    """
    key = _founding_set(tx, space, collection, id, identifier_key, rules)
    if key == NOBODY:
        raise profile_not_found()
    record = tx.profile(space, key)
    if record is None or COLLECTION_NUMBER[collection] != record.collection:
        raise profile_not_found()
    return Found(tx, space, collection, key, record, scope)


COLLECTION_NUMBER: Final[dict[Collection, int]] = {"users": 0, "accounts": 1}


def _founding_set(
    tx: Tx, space: str, collection: Collection, id: str, identifier_key: bytes, rules: IdentityRules
) -> bytes:
    type, colon, value = id.partition(":")
    if not colon or type == SEGMENT_ID:
        public = parse_public_id(value if colon else id)
        if public is None:
            return NOBODY
        key = public[1]
        if tx.profile(space, key) is not None:
            return key
        # The set founded a profile once, or could have; it lives on in the profile it leads to.
        known = tx.set(space, key)
        return NOBODY if known is None else known.profile
    if "\0" in type:
        raise invalid("The parameter `id` has invalid character(s) in its type.")
    written = normalised(rules, collection, type, value).encode()
    owner = tx.ident(space, siphash128(identifier_key, ident_prefix(collection, type) + written))
    return NOBODY if owner is None else owner.profile
