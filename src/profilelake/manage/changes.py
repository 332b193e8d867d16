"""How management requests change the control database: off the event loop, and once where that is asked."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request

from profilelake.errors import Invalid, Unavailable
from profilelake.ops.clock import Clock
from profilelake.workspaces.control import Control

IDEMPOTENCY_KEY_CHARACTERS_MAX: Final = 255

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Changes:
    """Runs what a request wants of the control database of `workspace`."""

    path: Path
    workspace: str
    clock: Clock

    async def run(self, action: Callable[[Control, int], _Answer]) -> _Answer:
        """Return what `action` gives for the open database and the time.

        In a thread: a commit waits for the disk, and for other programs that change things.

        Raises:
            Unavailable: the database is not there, or held by another program.
        """

        def opened() -> _Answer:
            if not self.path.exists():
                # A new one would know no key, and senders throw away what is refused for an unknown key.
                raise Unavailable(
                    f"opening the control database: there is no {self.path.name} in the data directory;"
                    " put it back, or restart the server to begin with a new one"
                )
            with Control.open(self.path, secrets.token_bytes) as control:
                return action(control, self.clock())

        return await asyncio.to_thread(opened)

    async def once(
        self, request: Request, body: bytes, action: Callable[[Control, int], dict[str, Any]]
    ) -> tuple[dict[str, Any], bool]:
        """Return the answer of `action`, carried out once for the request's Idempotency-Key.

        The flag tells a repeated request, whose answer is the one of the first time. Without the
        header every request counts. Answers are stored readable: leave secrets out of them.

        Raises:
            Invalid: the header cannot be read, or was used for another request.
        """
        given = request.headers.get("idempotency-key")
        if given is None:
            return await self.run(action), False
        if not given.isprintable() or not 1 <= len(given) <= IDEMPOTENCY_KEY_CHARACTERS_MAX:
            raise Invalid(
                f"the Idempotency-Key has {len(given)} characters: use 1 to"
                f" {IDEMPOTENCY_KEY_CHARACTERS_MAX} that can be printed"
            )
        asked = b"\0".join([request.method.encode(), request.url.path.encode(), body])

        def remembered(control: Control, now: int) -> tuple[str, bool]:
            def act() -> str:
                return msgspec.json.encode(action(control, now)).decode()

            return control.once(f"{self.workspace}\0{given}", asked, act, now=now)

        answer, repeated = await self.run(remembered)
        return msgspec.json.decode(answer), repeated
