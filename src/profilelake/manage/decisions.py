"""`/api/identity/decisions`, `/plan` and `/rules`: what people decide about who is who.

A decision is one record of the event log; the pipeline applies it like events. Whatever reads the whole
lake runs in a process of its own, so that collecting does not wait for it.
"""

import asyncio
import fcntl
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

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
from profilelake.eventlog import Entry
from profilelake.identity.decide import Asked, AskRestore, AskRetract, Deciding, EventSeen, entry_of
from profilelake.identity.decisions import Decision, idents_of, listed, shown
from profilelake.identity.facts import Fact, decode, encode
from profilelake.manage.answers import cursor_after, json_answer, page_asked
from profilelake.manage.changes import Changes
from profilelake.manage.external_ids import deletion_routes
from profilelake.manage.guard import Guard, asked_by
from profilelake.manage.requests import decoded, read_body
from profilelake.manage.status import accepted_ends
from profilelake.manage.waiting import POLL_SECONDS, WAIT_SECONDS_MAX, flushed, wait_asked
from profilelake.pipeline.progress import load_published
from profilelake.pipeline.told_effects import EXAMPLES_MAX
from profilelake.semantics.positions import Position
from profilelake.semantics.rules import IdentityRules
from profilelake.shapes.asking import SchemaAsked

BODY_BYTES_MAX: Final = 1 << 20
RECORD_SECONDS_MAX: Final = 3.0
"""How long a decision may take to become durable.

With an Idempotency-Key the control database is held meanwhile: others give up waiting for it later than that.
"""
READERS_MAX: Final = 1
"""Processes that read the lake for one HTTP process at the same time."""
READ_SECONDS_MAX: Final = 600.0

Place: TypeAlias = Callable[[Entry], Coroutine[Any, Any, Position]]

_ERRORS: Final[dict[int, type[ProfilelakeError]]] = {
    error.exit_code: error for error in (Invalid, NotFound, Conflict, Unavailable, Corrupt)
}


class LakeQuestion(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a process that reads the lake is asked: where an event stands, what a decision would do, or shapes."""

    message_id: str | None = None
    plan: Asked | None = None
    by: str = ""
    examples: int = 0
    schema: SchemaAsked | None = None


def decision_routes(
    guard: Guard,
    changes: Changes,
    deciding: Deciding,
    place: Place,
    directory: Path,
    log_directory: Path,
    flush_request: Path,
) -> list[Route]:
    """Return the routes; `place` makes an entry of the event log durable and tells its position."""
    reader = LakeReader(directory)
    answers = _Answers(changes, deciding, place, reader, log_directory, flush_request)
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
    place: Place
    reader: "LakeReader"
    log_directory: Path
    flush_request: Path
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the request that decides: the next one must see what it has decided."""

    async def newest(self, request: Request) -> Response:
        page = page_asked(request)

        def read() -> list[Decision]:
            with self.deciding.state().read(self.deciding.workspace) as tx:
                held = self.deciding.held(tx)
                return listed(tx, self.deciding.workspace, held, after=page.after, rows=page.rows + 1)

        found = await asyncio.to_thread(_or_nothing, read, [])
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
        in_time = await self._committed(seconds)
        return json_answer(200 if in_time else 504, {"data": answer})

    async def decided(self, request: Request, body: bytes, asked: Asked) -> dict[str, Any]:
        """Record what a request asks for, once for its Idempotency-Key; return whether anything changed, and what."""
        seen = await self._event(asked)
        loop = asyncio.get_running_loop()
        by = asked_by(request)

        def act(_control: object, _now: int) -> dict[str, Any]:
            decided = self.deciding.decide(asked, by, lambda _: seen)
            facts = decided.facts if decided.changed else ()
            positions = self._record(facts, loop) if facts else []
            made = [
                (position.to_bytes().hex(), encode(fact).decode())
                for position, fact in zip(positions, facts, strict=True)
            ]
            return {"changed": decided.changed, "made": made}

        # What is kept for repeated requests names nobody; identifiers get their values only for the answer.
        async with self._in_turn():
            done, _ = await self.changes.once(request, body, act)
        return done

    async def plan(self, request: Request) -> Response:
        examples = _examples(request.query_params.get("examples"))
        asked = _asked(await read_body(request, bytes_max=BODY_BYTES_MAX))
        await self._settled(WAIT_SECONDS_MAX)
        question = LakeQuestion(plan=asked, by=asked_by(request), examples=examples)
        return json_answer(200, {"data": msgspec.Raw(await self.reader.ask(question))})

    async def rules(self, _request: Request) -> Response:
        def read() -> dict[str, Any]:
            with self.deciding.state().read(self.deciding.workspace) as tx:
                held = self.deciding.held(tx)
                return _rules_shown(held.rules, held.decided.get(("rules",)))

        default = _rules_shown(self.deciding.rules, None)
        return json_answer(200, {"data": await asyncio.to_thread(_or_nothing, read, default)})

    async def _event(self, asked: Asked) -> EventSeen | None:
        """Look the event up that a request names; the lake knows it once what was accepted is committed."""
        if not isinstance(asked, AskRetract | AskRestore):
            return None
        await self._settled(WAIT_SECONDS_MAX)
        found = await self.reader.ask(LakeQuestion(message_id=asked.message_id))
        return msgspec.json.decode(found, type=EventSeen | None)

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        """Be the only request that decides, with everything in force that was decided before.

        Raises:
            Unavailable: what was decided before is not in force in time.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + WAIT_SECONDS_MAX
        try:
            async with asyncio.timeout_at(give_up_at):
                await self.turn.acquire()
        except TimeoutError as error:
            raise _decisions_wait() from error
        try:
            # The HTTP processes of a server take turns too; the lock goes with the process that holds it.
            with self.flush_request.with_name("deciding.lock").open("ab") as file:
                while not _locked(file):
                    if loop.time() >= give_up_at:
                        raise _decisions_wait()
                    await asyncio.sleep(POLL_SECONDS)
                await self._settled(give_up_at - loop.time())
                yield
        finally:
            self.turn.release()

    async def _settled(self, seconds_max: float) -> None:
        """Return once everything accepted before is in state and lake. Raises Unavailable in time."""
        if not await self._committed(seconds_max):
            raise _decisions_wait()

    async def _committed(self, seconds_max: float) -> bool:
        """Wait until everything accepted before is in state and lake; tell whether it is."""
        target = accepted_ends(self.log_directory)

        def done(reached: dict[str, tuple[int, int]]) -> bool:
            return all(reached.get(log, (0, 0))[0] >= offset for log, offset in target.items())

        return done(await flushed(self.flush_request.touch, self._published, done, seconds_max))

    def _published(self) -> dict[str, tuple[int, int]]:
        def read() -> dict[str, tuple[int, int]]:
            with self.deciding.state().read(self.deciding.workspace) as tx:
                return load_published(tx, self.deciding.workspace).vector

        found: dict[str, tuple[int, int]] = _or_nothing(read, {})
        return found

    def _record(self, facts: Sequence[Fact], loop: asyncio.AbstractEventLoop) -> list[Position]:
        """Make a decision durable, from a thread; return where its facts stand.

        Raises:
            Unavailable: that is not known in time.
        """
        entries = [entry_of(self.deciding.workspace, fact) for fact in facts]

        async def placed() -> list[Position]:
            return await asyncio.gather(*(self.place(entry) for entry in entries))

        try:
            # Left to itself when time is up: what waits for the disk is shared with requests that go on.
            return asyncio.run_coroutine_threadsafe(placed(), loop).result(RECORD_SECONDS_MAX)
        except TimeoutError as error:
            raise Unavailable(
                f"recording a decision: the event log does not answer within {RECORD_SECONDS_MAX:.0f} seconds;"
                " it may have been recorded; look at GET /api/identity/decisions"
            ) from error

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


def _locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _decisions_wait() -> Unavailable:
    return Unavailable(
        "deciding: decisions wait until everything accepted before is applied and committed, and that takes"
        " longer than may be waited for; nothing was decided, try again later",
        retry_after_seconds=60,
    )


def _asked(body: bytes) -> Asked:
    union: Any = Asked  # to msgspec it is a type like any other
    asked: Asked = decoded(body, union)
    return asked


def _or_nothing(read: Callable[[], Any], nothing: Any) -> Any:
    """Return what is read, or `nothing` where nothing was applied yet."""
    try:
        return read()
    except NotFound:
        return nothing


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
