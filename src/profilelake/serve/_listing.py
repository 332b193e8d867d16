"""The list of all profiles of a collection, in the order of their founding sets."""

from collections.abc import Callable
from typing import Final, NamedTuple

from profilelake.semantics.identifiers import parse_public_id, public_id
from profilelake.semantics.rules import Collection
from profilelake.serve._answer import not_a_cursor
from profilelake.serve._profile import COLLECTION_NUMBER, Cursor, Found, onward
from profilelake.serve._request import Query
from profilelake.state.records import decode_profile
from profilelake.state.store import Db, Tx
from profilelake.workspaces.scopes import Scope

LIST_DEFAULT: Final = 10
LIST_MAX: Final = 1_000
LIST_EXPANDED_MAX: Final = 100
"""Profiles of a page that shows more of each than its id."""
LOOKED_AT_MAX: Final = 5_000
"""Profiles that are looked at for one page: both collections are stored together, so a page of the
smaller one may end before it is full."""


class Listing(NamedTuple):
    """Which list is asked for, and what may be read of the profiles in it."""

    space: str
    collection: Collection
    scope: Scope


def listed(
    tx: Tx, asked: Listing, query: Query, *, expanded: bool, show: Callable[[Found], dict[str, object]]
) -> dict[str, object]:
    """Return one page of profiles as `show` gives each; the cursor names where the next one begins.

    Each profile that is there from the first page to the last comes exactly once.
    """
    limit = query.limit(LIST_DEFAULT, LIST_EXPANDED_MAX if expanded else LIST_MAX)
    number = COLLECTION_NUMBER[asked.collection]
    data: list[dict[str, object]] = []
    following: bytes | None = None
    for looked_at, (key, value) in enumerate(
        tx.items(asked.space, Db.PROFILE, _parse_next(asked.collection, query.text("next")))
    ):
        if len(data) == limit or looked_at == LOOKED_AT_MAX:
            following = key
            break
        record = decode_profile(value)
        if record.collection == number:
            data.append(show(Found(tx, asked.space, asked.collection, key, record, asked.scope)))
    if following is None:
        return {"data": data, "cursor": Cursor("", False, "", limit)}
    start = public_id(asked.collection, following)
    return {"data": data, "cursor": onward(asked.space, asked.collection, "", query, limit, start)}


def _parse_next(collection: Collection, text: str) -> bytes:
    """Return the founding set a page begins at, empty where none is given."""
    if not text:
        return b""
    parsed = parse_public_id(text)
    if parsed is None or parsed[0] != collection:
        raise not_a_cursor()
    return parsed[1]
