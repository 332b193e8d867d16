"""What the tracking API would cost if it were written with FastAPI and pydantic, on the same event log.

`collect.py --fastapi-python PATH` starts this with an interpreter that has `fastapi` and
`uvicorn[standard]`; neither is a dependency of the project. It is written as a careful user of FastAPI
would: gzip is unpacked in plain ASGI middleware, the key is checked by a dependency, models have typed
fields, nothing is logged per request, and 200 is sent once the log says that the batch is durable. It
does less than `collect`: no quotas, no suppression, no tolerant JSON, no time-outs, no metrics.
"""

import argparse
import asyncio
import json
import signal
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import uvicorn
import uvloop
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from profilelake.eventlog import Entry, Flags, Kind
from profilelake.eventlog.embedded import Flushed, LogWriter
from profilelake.semantics.rules import EXTRACTION_VERSION
from profilelake.workspaces import Source
from profilelake.workspaces.control import CONTROL_FILE
from profilelake.workspaces.keyring import KeyRing

BODY_BYTES_MAX: Final = 4 * 1024 * 1024
_GZIP_WINDOW: Final = 31


class Event(BaseModel):
    """One message. Times stay text, which spares pydantic what `collect` does not do either."""

    model_config = ConfigDict(extra="allow")

    type: Literal["identify", "track", "page", "screen", "group", "alias"]
    user_id: str | None = Field(default=None, alias="userId")
    anonymous_id: str | None = Field(default=None, alias="anonymousId")
    group_id: str | None = Field(default=None, alias="groupId")
    previous_id: str | None = Field(default=None, alias="previousId")
    message_id: str | None = Field(default=None, alias="messageId")
    event: str | None = None
    name: str | None = None
    timestamp: str | None = None
    context: dict[str, Any] | None = None
    properties: dict[str, Any] | None = None
    traits: dict[str, Any] | None = None
    integrations: dict[str, Any] | None = None


class Batch(BaseModel):
    """The body of `/v1/batch`."""

    model_config = ConfigDict(extra="allow")

    batch: list[Event]
    sent_at: str | None = Field(default=None, alias="sentAt")
    write_key: str | None = Field(default=None, alias="writeKey")


class Gunzip:
    """Hands the application a body without gzip; the log gets it as it came."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Unpack what one request brings."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        pieces = []
        more = True
        while more:
            message = await receive()
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
        packed = body = b"".join(pieces)
        if dict(scope["headers"]).get(b"content-encoding") == b"gzip":
            body = zlib.decompressobj(_GZIP_WINDOW).decompress(packed, BODY_BYTES_MAX)
            scope["packed"] = packed

        async def unpacked() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, unpacked, send)


def application(writer: LogWriter, keys: KeyRing) -> ASGIApp:
    """Return the application: `/v1/batch` as FastAPI's pages show it, `/straight/v1/batch` sparing a step.

    On the second path pydantic reads the bytes itself, where FastAPI would have them decoded first.
    """

    def source_of(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> Source:
        source = keys.source(credentials.username)
        if source is None:
            raise HTTPException(401, "there is no such write key")
        return source

    async def known(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> Source:
        # Not in a thread, as FastAPI would run a plain function: that alone would cost 50 us.
        return source_of(credentials)

    async def store(request: Request, source: Source, batch: Batch, body: bytes) -> None:
        packed = request.scope.get("packed")
        await writer.append(
            Entry(
                source.workspace,
                source.id,
                Kind.BATCH,
                Flags.NONE if packed is None else Flags.GZIP,
                len(batch.batch),
                EXTRACTION_VERSION,
                request.client.host if request.client else "",
                request.headers.get("sentat", ""),
                body if packed is None else packed,
            )
        )

    async def take(
        batch: Batch, request: Request, source: Annotated[Source, Depends(known)]
    ) -> dict[str, bool]:
        await store(request, source, batch, await request.body())
        return {"success": True}

    async def take_straight(request: Request, source: Annotated[Source, Depends(known)]) -> dict[str, bool]:
        body = await request.body()
        try:
            batch = Batch.model_validate_json(body)
        except ValidationError as error:
            raise HTTPException(400, "malformed batch") from error
        await store(request, source, batch, body)
        return {"success": True}

    app = FastAPI()
    app.add_api_route("/v1/batch", take, methods=["POST"])
    app.add_api_route("/straight/v1/batch", take_straight, methods=["POST"])
    return Gunzip(app)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Its own way ends the process before the last line is printed.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.handle_exit, signal.SIGTERM, None)
        yield


async def _serve(directory: Path) -> None:
    flushes: list[Flushed] = []
    writer = LogWriter(
        directory / "log", region="bench", clock=lambda: time.time_ns() // 1000, on_durable=flushes.append
    )
    keys = KeyRing(directory / CONTROL_FILE)
    keys.refresh()
    sock = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(
        application(writer, keys), loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
    print(sock.getsockname()[1], flush=True)
    await _Server(config).serve(sockets=[sock])
    writer.close()
    seconds = sorted(flush.sync_seconds for flush in flushes)
    summary: dict[str, float] = {"records": sum(flush.records for flush in flushes), "syncs": len(seconds)}
    if seconds:
        summary |= {"p50": seconds[len(seconds) // 2], "p99": seconds[len(seconds) * 99 // 100]}
    print(json.dumps(summary), flush=True)


def main() -> None:
    """Serve until SIGTERM; print the port first and what was stored last."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--directory", type=Path, required=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(arguments.parse_args().directory))


if __name__ == "__main__":
    main()
