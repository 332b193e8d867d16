"""Whom a profile is linked with: a person's accounts, an account's people."""

import base64
import binascii
from typing import Final

import msgspec

from profilelake.profiles.memberships import Link, members_page
from profilelake.semantics.identifiers import public_id
from profilelake.semantics.rules import Collection
from profilelake.serve._answer import not_a_cursor, time_text
from profilelake.serve._profile import Cursor, Found, cursor
from profilelake.serve._request import Query
from profilelake.serve._resources import EXTERNAL_IDS_MAX, ExternalId, external_id

LINKS_DEFAULT: Final = 10
LINKS_MAX: Final = 20

OTHER: Final[dict[Collection, Collection]] = {"users": "accounts", "accounts": "users"}
"""Where the links of a collection lead."""
_PAIR_BYTES: Final = 32


class ShownLink(msgspec.Struct):
    """One profile that another is linked with; `unlinked_at` is null while they are."""

    to_collection: str
    segment_id: str
    linked_at: str
    unlinked_at: str | None
    external_ids: list[ExternalId]


class LinksPage(msgspec.Struct):
    """Answer of `/links`."""

    data: list[ShownLink]
    cursor: Cursor


def links(found: Found, query: Query) -> LinksPage:
    """Return one page of links; those that ended only with `ended=true`.

    A page may hold fewer than `limit` where some were left out. Of each linked profile it shows the
    first `EXTERNAL_IDS_MAX` identifiers.
    """
    limit = query.limit(LINKS_DEFAULT, LINKS_MAX)
    ended = query.flag("ended")
    after = _parse_pair(query.text("next"))
    page, following = members_page(found.tx, found.space, found.collection, found.record, after, limit)
    shown = [link for link in page if ended or link.unlinked_at is None]
    start = None if following is None else _pair(following)
    return LinksPage(_shown(found, shown), cursor(found, "links", query, limit, start))


def _shown(found: Found, page: list[Link]) -> list[ShownLink]:
    tx, space, collection = found.tx, found.space, OTHER[found.collection]
    records = tx.profiles(space, {link.other_profile for link in page})
    keys = {
        other: sorted(key for key, _ in record.idents)[:EXTERNAL_IDS_MAX] for other, record in records.items()
    }
    idents = tx.idents(space, {key for held in keys.values() for key in held})
    return [
        ShownLink(
            collection,
            public_id(collection, link.other_profile),
            time_text(link.linked_at),
            None if link.unlinked_at is None else time_text(link.unlinked_at),
            [external_id(collection, idents[key]) for key in keys[link.other_profile] if key in idents],
        )
        for link in page
        if link.other_profile in keys
    ]


def _pair(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def _parse_pair(text: str) -> bytes:
    """Return the pair of sets inside a cursor, empty where none is given."""
    if not text:
        return b""
    try:
        key = base64.b64decode(text + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _PAIR_BYTES:
        raise not_a_cursor()
    return key
