"""What management answers look like: JSON, errors as RFC 9457 has them, pages with a cursor."""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from profilelake.errors import Invalid

PAGE_ROWS: Final = 100
"""Rows of a page when the client names no number."""
PAGE_ROWS_MAX: Final = 1_000
CURSOR_CHARACTERS_MAX: Final = 2_048
_COUNT_DIGITS_MAX: Final = 9


def problem(status: int, code: str, detail: str, *, headers: dict[str, str] | None = None) -> Response:
    """Return an error as RFC 9457 has it; `code` is stable."""
    body = {"type": "about:blank", "title": code, "status": status, "code": code, "detail": detail}
    return Response(msgspec.json.encode(body), status, headers=headers, media_type="application/problem+json")


def json_answer(status: int, body: object, *, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON document. Answers are about one moment and may hold secrets: nobody may keep them."""
    return Response(
        msgspec.json.encode(body),
        status,
        headers={"Cache-Control": "no-store"} | (headers or {}),
        media_type="application/json",
    )


@dataclass(frozen=True, slots=True)
class Page:
    """Which rows are asked for: at most `rows` of those that come after `after`, "" for the start."""

    after: str
    rows: int


def page_asked(request: Request) -> Page:
    """Return the page a request asks for, as `?limit=&cursor=` or as Segment's clients write it.

    Raises:
        Invalid: the number is out of bounds, or the cursor is not one of ours.
    """
    query = request.query_params
    limit = query.get("limit", query.get("pagination[count]"))
    cursor = query.get("cursor", query.get("pagination[cursor]", ""))
    rows = PAGE_ROWS
    if limit is not None:
        digits = limit.isascii() and limit.isdigit() and len(limit) <= _COUNT_DIGITS_MAX
        rows = int(limit) if digits else 0
        if not 1 <= rows <= PAGE_ROWS_MAX:
            raise Invalid(f"limit={limit[:40]!r}: give a whole number from 1 to {PAGE_ROWS_MAX}")
    return Page(_position(cursor), rows)


def page_answer(
    name: str, rows: Sequence[Any], page: Page, key: Callable[[Any], str], shape: Callable[[Any], object]
) -> Response:
    """Answer with one page of `rows`, which begin after the page's cursor and may hold more than fit.

    Give one row more than the page has, and the answer knows that there is a next page. `key` is
    what rows are sorted by, `shape` what the client sees of one.
    """
    shown = rows[: page.rows]
    pagination: dict[str, object] = {"current": cursor_after(page.after)}
    if len(rows) > page.rows:
        pagination["next"] = cursor_after(key(shown[-1]))
    return json_answer(200, {"data": {name: [shape(row) for row in shown], "pagination": pagination}})


def cursor_after(position: str) -> str:
    """Return the cursor of the rows after `position`. Clients hand it back and do not look into it."""
    return base64.urlsafe_b64encode(position.encode("utf-8", "surrogatepass")).decode()


def _position(cursor: str) -> str:
    if len(cursor) <= CURSOR_CHARACTERS_MAX:
        try:
            return base64.b64decode(cursor.encode(), altchars=b"-_", validate=True).decode()
        except (binascii.Error, ValueError):
            pass
    raise Invalid("the cursor is not one of ours: take it from `pagination.next` of the page before")
