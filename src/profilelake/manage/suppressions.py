"""`/api/suppressions`: whose events are not stored. Identifiers come in bodies, never in URLs, and are not kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from profilelake.errors import Invalid
from profilelake.manage.answers import cursor_after, json_answer, page_asked
from profilelake.manage.changes import Changes
from profilelake.manage.guard import Guard
from profilelake.manage.requests import read_json
from profilelake.semantics.rules import Collection, IdentityRules
from profilelake.semantics.times import format_time
from profilelake.workspaces.control import Control
from profilelake.workspaces.suppressions import (
    IDENTIFIERS_PER_CALL_MAX,
    Hashed,
    Suppression,
    SuppressionRing,
    hash_identifier,
)

BODY_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of a request that names identifiers, as in Segment's Public API."""

_SUBJECT_TYPES: Final[dict[str, tuple[Collection, str]]] = {
    "USER_ID": ("users", "user_id"),
    "ANONYMOUS_ID": ("users", "anonymous_id"),
    "EMAIL": ("users", "email"),
    "GROUP_ID": ("accounts", "group_id"),
}
"""Spellings of the Public API; every other subject type is an identifier type as it is."""
_SUBJECT_OF: Final = {place: name for name, place in _SUBJECT_TYPES.items()}


class Subjects(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Identifiers of one type. `collection` is for types that the Public API has no name for."""

    subject_type: str
    subject_ids: list[str]
    collection: Collection = "users"


class NewSuppression(Subjects, rename="camel", forbid_unknown_fields=True):
    """Identifiers to suppress, and why: the id of a regulation or ticket, no personal data."""

    reason: str = ""


def suppression_routes(
    guard: Guard,
    changes: Changes,
    key: Callable[[], bytes],
    rules: Callable[[str], IdentityRules],
    ring: SuppressionRing,
) -> list[Route]:
    """Return the routes of suppressions.

    `key` returns the identifier key, `rules` those of a workspace, `ring` is the list of this process.
    """
    answers = _Answers(changes, key, rules, ring)
    return [
        guard.route("/api/suppressions", GET=answers.list, POST=answers.add),
        guard.route("/api/suppressions/remove", POST=answers.remove),
        guard.route("/api/suppressions/check", POST=answers.check),
    ]


@dataclass(frozen=True, slots=True)
class _Answers:
    changes: Changes
    key: Callable[[], bytes]
    rules: Callable[[str], IdentityRules]
    ring: SuppressionRing

    async def list(self, request: Request) -> Response:
        page = page_asked(request)
        try:
            after = bytes.fromhex(page.after)
        except ValueError as error:
            raise Invalid(
                "the cursor is not one of ours: take it from `pagination.next` of the page before"
            ) from error

        def act(control: Control, _: int) -> tuple[Sequence[Suppression], int]:
            listed = control.suppressions()
            workspace = self.changes.workspace
            return listed.page(workspace, after=after, rows=page.rows + 1), listed.count(workspace)

        rows, total = await self.changes.run(act)
        shown = rows[: page.rows]
        pagination: dict[str, object] = {"current": cursor_after(page.after), "totalEntries": total}
        if len(rows) > page.rows:
            pagination["next"] = cursor_after(shown[-1].hashed.ident_id.hex())
        suppressed = [_shape(row) for row in shown]
        return json_answer(200, {"data": {"suppressed": suppressed, "pagination": pagination}})

    async def add(self, request: Request) -> Response:
        new = await read_json(request, NewSuppression, bytes_max=BODY_BYTES_MAX)

        def act(control: Control, now: int) -> int:
            hashed = self._hashed(new)
            return control.suppressions().suppress(self.changes.workspace, hashed, reason=new.reason, now=now)

        added = await self.changes.run(act)
        self.ring.refresh()  # the other processes look within a second, landing before every micro-batch
        return json_answer(200, {"data": {"suppressed": len(new.subject_ids), "added": added}})

    async def remove(self, request: Request) -> Response:
        subjects = await read_json(request, Subjects, bytes_max=BODY_BYTES_MAX)

        def act(control: Control, _: int) -> int:
            return control.suppressions().unsuppress(self.changes.workspace, self._hashed(subjects))

        removed = await self.changes.run(act)
        self.ring.refresh()
        return json_answer(200, {"data": {"removed": removed}})

    async def check(self, request: Request) -> Response:
        subjects = await read_json(request, Subjects, bytes_max=BODY_BYTES_MAX)

        def act(control: Control, _: int) -> Sequence[Suppression | None]:
            listed = control.suppressions()
            return [listed.find(self.changes.workspace, one) for one in self._hashed(subjects)]

        found = await self.changes.run(act)
        return json_answer(200, {"data": {"suppressed": [entry is not None for entry in found]}})

    def _hashed(self, subjects: Subjects) -> Sequence[Hashed]:
        """Return the hashes of what a request names. It takes its time: not for the event loop."""
        if not 1 <= len(subjects.subject_ids) <= IDENTIFIERS_PER_CALL_MAX:
            raise Invalid(
                f"reading the body: subjectIds has {len(subjects.subject_ids)} entries; give 1 to"
                f" {IDENTIFIERS_PER_CALL_MAX}"
            )
        collection, type = _SUBJECT_TYPES.get(
            subjects.subject_type, (subjects.collection, subjects.subject_type)
        )
        key, rules = self.key(), self.rules(self.changes.workspace)
        return [hash_identifier(key, rules, collection, type, value) for value in subjects.subject_ids]


def _shape(entry: Suppression) -> dict[str, Any]:
    """Return an entry as clients see it: of the identifier only the hash is known."""
    hashed = entry.hashed
    return {
        "subjectType": _SUBJECT_OF.get((hashed.collection, hashed.type), hashed.type),
        "collection": hashed.collection,
        "subjectHash": hashed.ident_id.hex(),
        "reason": entry.reason,
        "createdAt": format_time(entry.created_at),
    }
