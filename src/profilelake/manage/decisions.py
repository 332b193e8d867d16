"""`/api/identity/decisions`, `/plan` and `/rules`: what people decide about who is who.

A decision is one record of the event log; the pipeline applies it like events. Whatever reads the whole
lake runs in a process of its own, so that collecting does not wait for it.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from profilelake.audiences.deciding import Change
from profilelake.definitions.identity import dump
from profilelake.errors import (
    Conflict,
    Corrupt,
    Internal,
    Invalid,
    NotFound,
    ProfilelakeError,
    Unavailable,
)
from profilelake.identity.decide import Asked, AskRestore, AskRetract, Deciding, EventSeen, entry_of
from profilelake.identity.decisions import Decision, idents_of, listed, shown
from profilelake.identity.facts import decode, encode
from profilelake.manage.answers import cursor_after, json_answer, page_asked
from profilelake.manage.changes import Changes
from profilelake.manage.external_ids import deletion_routes
from profilelake.manage.guard import Guard, asked_by
from profilelake.manage.recording import Recording, or_nothing
from profilelake.manage.requests import decoded, read_body
from profilelake.manage.waiting import wait_asked
from profilelake.pipeline.told_effects import EXAMPLES_MAX
from profilelake.semantics.definitions import Definition
from profilelake.semantics.rules import IdentityRules
from profilelake.shapes.asking import SchemaAsked
from profilelake.shapes.names import NamesAsked

BODY_BYTES_MAX: Final = 1 << 20
READERS_MAX: Final = 1
"""Processes that read the lake for one HTTP process at the same time."""
READ_SECONDS_MAX: Final = 600.0

_ERRORS: Final[dict[int, type[ProfilelakeError]]] = {
    error.exit_code: error for error in (Invalid, NotFound, Conflict, Unavailable, Corrupt)
}


class LakeQuestion(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a process that reads the lake is asked: one of these.

    Where an event stands, what a decision about identity would do, shapes, names; what changes of definitions
    would do, or what a definition would be worth.
    """

    message_id: str | None = None
    plan: Asked | None = None
    by: str = ""
    examples: int = 0
    schema: SchemaAsked | None = None
    names: NamesAsked | None = None
    changes: tuple[Change, ...] | None = None
    preview: Definition | None = None


def decision_routes(
    guard: Guard,
    changes: Changes,
    deciding: Deciding,
    recording: Recording,
    directory: Path,
) -> list[Route]:
    """Return the routes."""
    answers = _Answers(changes, deciding, recording, LakeReader(directory))
    return [
        guard.route("/api/identity/decisions", GET=answers.newest, POST=answers.add),
        guard.route("/api/identity/plan", POST=answers.plan),
        guard.route("/api/identity/rules", GET=answers.rules),
        *deletion_routes(guard, deciding, answers.decided),
    ]


@dataclass(frozen=True, slots=True)
class _Answers:
    changes: Changes
    deciding: Deciding
    recording: Recording
    reader: "LakeReader"

    async def newest(self, request: Request) -> Response:
        page = page_asked(request)

        def read() -> list[Decision]:
            with self.deciding.state().read(self.deciding.workspace) as tx:
                held = self.deciding.held(tx)
                return listed(tx, self.deciding.workspace, held, after=page.after, rows=page.rows + 1)

        found = await asyncio.to_thread(or_nothing, read, [])
        pagination: dict[str, object] = {"current": cursor_after(page.after)}
        if len(found) > page.rows:
            pagination["next"] = cursor_after(found[page.rows - 1].position)
        return json_answer(200, {"data": {"decisions": found[: page.rows], "pagination": pagination}})

    async def add(self, request: Request) -> Response:
        query = request.query_params
        seconds = wait_asked(query.get("wait_for"), query.get("timeout"))
        body = await read_body(request, bytes_max=BODY_BYTES_MAX)
        done = await self.decided(request, body, _asked(body))
        answer = {"changed": done["changed"], "decisions": await asyncio.to_thread(self._shown, done["made"])}
        if not answer["changed"]:
            return json_answer(200, {"data": answer})
        if seconds is None:
            return json_answer(202, {"data": answer})
        in_time = await self.recording.committed(seconds)
        return json_answer(200 if in_time else 504, {"data": answer})

    async def decided(self, request: Request, body: bytes, asked: Asked) -> dict[str, Any]:
        """Record what a request asks for, once for its Idempotency-Key; return whether anything changed, and what."""
        seen = await self._event(asked)
        loop = asyncio.get_running_loop()
        by = asked_by(request)

        def act(_control: object, _now: int) -> dict[str, Any]:
            decided = self.deciding.decide(asked, by, lambda _: seen)
            facts = decided.facts if decided.changed else ()
            entries = [entry_of(self.deciding.workspace, fact) for fact in facts]
            positions = self.recording.record(entries, loop, "GET /api/identity/decisions") if entries else []
            made = [
                (position.to_bytes().hex(), encode(fact).decode())
                for position, fact in zip(positions, facts, strict=True)
            ]
            return {"changed": decided.changed, "made": made}

        # What is kept for repeated requests names nobody; identifiers get their values only for the answer.
        async with self.recording.in_turn():
            done, _ = await self.changes.once(request, body, act)
        return done

    async def plan(self, request: Request) -> Response:
        examples = _examples(request.query_params.get("examples"))
        asked = _asked(await read_body(request, bytes_max=BODY_BYTES_MAX))
        await self.recording.settled()
        question = LakeQuestion(plan=asked, by=asked_by(request), examples=examples)
        return json_answer(200, {"data": msgspec.Raw(await self.reader.ask(question))})

    async def rules(self, _request: Request) -> Response:
        def read() -> dict[str, Any]:
            with self.deciding.state().read(self.deciding.workspace) as tx:
                held = self.deciding.held(tx)
                return _rules_shown(held.rules, held.decided.get(("rules",)))

        default = _rules_shown(self.deciding.rules, None)
        return json_answer(200, {"data": await asyncio.to_thread(or_nothing, read, default)})

    async def _event(self, asked: Asked) -> EventSeen | None:
        """Look the event up that a request names; the lake knows it once what was accepted is committed."""
        if not isinstance(asked, AskRetract | AskRestore):
            return None
        await self.recording.settled()
        found = await self.reader.ask(LakeQuestion(message_id=asked.message_id))
        return msgspec.json.decode(found, type=EventSeen | None)

    def _shown(self, made: Sequence[tuple[str, str]]) -> list[Decision]:
        if not made:
            return []
        facts = [(bytes.fromhex(position), decode(body.encode())) for position, body in made]
        with self.deciding.state().read(self.deciding.workspace) as tx:
            idents = {ident for _, fact in facts for ident in idents_of(fact)}
            known = tx.idents(self.deciding.workspace, idents)
        return [shown(position, fact, known) for position, fact in facts]


def _rules_shown(rules: IdentityRules, position: bytes | None) -> dict[str, Any]:
    """Return rules as they are shown: as the file that says them, and as they are understood."""
    place = None if position is None else position.hex()
    return {"version": rules.version, "position": place, "yaml": dump(rules), "rules": rules}


def _asked(body: bytes) -> Asked:
    union: Any = Asked  # to msgspec it is a type like any other
    asked: Asked = decoded(body, union)
    return asked


def _examples(text: str | None) -> int:
    if text is None:
        return 0
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else -1
    if not 0 <= number <= EXAMPLES_MAX:
        raise Invalid(f"examples={text[:40]!r}: give a whole number from 0 to {EXAMPLES_MAX:,}")
    return number


@dataclass(slots=True)
class LakeReader:
    """Asks a process of its own what only the lake knows; few at the same time, none for ever."""

    directory: Path
    _running: int = field(default=0)

    async def ask(self, question: LakeQuestion) -> bytes:
        """Return the answer, a JSON document. Raises what the process raised."""
        if self._running >= READERS_MAX:
            raise Unavailable("reading the lake: another question is being answered; retry later")
        self._running += 1
        try:
            return await self._ask(question)
        finally:
            self._running -= 1

    async def _ask(self, question: LakeQuestion) -> bytes:
        arguments = ["process", "ask-lake", "--dir", str(self.directory), "--parent", str(os.getpid())]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "profilelake",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(READ_SECONDS_MAX):
                out, said = await process.communicate(msgspec.json.encode(question))
        except TimeoutError as error:
            raise Unavailable(
                f"reading the lake: no answer within {READ_SECONDS_MAX:.0f} seconds; use the command line,"
                " which waits as long as it takes"
            ) from error
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode == 0:
            return out
        text = said.decode(errors="replace").strip()
        kind = _ERRORS.get(process.returncode or 0)
        if kind is None:
            raise Internal(
                f"reading the lake: the process that does it ended with {process.returncode}: {text}"
            )
        # What it says last is why it ended; before that may stand what else it had to tell.
        raise kind(text.rpartition("profilelake: ")[2])
