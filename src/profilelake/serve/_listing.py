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


TURN_LOOKED_AT: Final = 500
TURN_SHOWN: Final = 10
"""What is done of a page in one turn, between which other requests are answered."""


class Place(NamedTuple):
    """Which list is asked for, and what may be read of the profiles in it."""

    space: str
    collection: Collection
    scope: Scope


class Listing:
    """One page of a list, read in turns, each in a transaction of its own.

    Each profile that is there from the first page to the last comes exactly once.
    """

    def __init__(
        self,
        place: Place,
        query: Query,
        *,
        expanded: bool,
        show: Callable[[Found], dict[str, object]],
    ) -> None:
        """Show each profile as `show` does. Raises Refused where the query cannot be read."""
        self._place = place
        self._query = query
        self._show = show
        self._limit = query.limit(LIST_DEFAULT, LIST_EXPANDED_MAX if expanded else LIST_MAX)
        self._turn_shown = TURN_SHOWN if expanded else LIST_MAX
        self._next: bytes | None = _parse_next(place.collection, query.text("next"))
        self._data: list[dict[str, object]] = []
        self._looked_at = 0

    @property
    def done(self) -> bool:
        """The page is full, or the list at its end, or enough was looked at."""
        return self._next is None or len(self._data) >= self._limit or self._looked_at >= LOOKED_AT_MAX

    def read(self, tx: Tx) -> None:
        """Read on for one turn."""
        space, collection, scope = self._place
        number = COLLECTION_NUMBER[collection]
        shown_max = min(self._limit, len(self._data) + self._turn_shown)
        looked_at_max = min(LOOKED_AT_MAX, self._looked_at + TURN_LOOKED_AT)
        for key, value in tx.items(space, Db.PROFILE, self._next or b""):
            self._next = key  # here it goes on, be it that reading this one fails
            if len(self._data) >= shown_max or self._looked_at >= looked_at_max:
                return
            self._looked_at += 1
            record = decode_profile(value)
            if record.collection == number:
                self._data.append(self._show(Found(tx, space, collection, key, record, scope)))
        self._next = None

    def page(self) -> dict[str, object]:
        """Return the page, whose cursor names where the next one begins."""
        if self._next is None:
            return {"data": self._data, "cursor": Cursor("", False, "", self._limit)}
        space, collection, _ = self._place
        start = public_id(collection, self._next)
        return {
            "data": self._data,
            "cursor": onward(space, collection, "", self._query, self._limit, start),
        }


def _parse_next(collection: Collection, text: str) -> bytes:
    """Return the founding set a page begins at, empty where none is given."""
    if not text:
        return b""
    parsed = parse_public_id(text)
    if parsed is None or parsed[0] != collection:
        raise not_a_cursor()
    return parsed[1]
