"""How fast destinations are told, beside a plain loop that posts the same bytes.

Run `python benchmarks/activate.py [--members 20000] [--batch 100] [--parallel 4]`. A receiver runs as a process of
its own on loopback and answers 200. Both sides send what one audience of so many members is worth: activation
reads it from the state, chooses identifiers, notes it in its journal, signs it and sends it; the plain loop posts
bodies that are made ready, with httpx and as many requests under way. CPU seconds are of the sending process alone;
they do not depend on what else the machine does. Rates do.
"""

import argparse
import asyncio
import hmac
import json
import multiprocessing
import random
import resource
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from prometheus_client import CollectorRegistry

from _machine import machine
from profilelake.activate import secret_files
from profilelake.activate.addresses import resolve
from profilelake.activate.journal import Journal
from profilelake.activate.metrics import ActivateMetrics
from profilelake.activate.run import Activating
from profilelake.audiences import facts
from profilelake.ops.clock import wall
from profilelake.semantics.definitions import Definition
from profilelake.semantics.destinations import Destination
from profilelake.semantics.positions import Position
from profilelake.settings import ActivateSettings
from profilelake.state.computed import ComputedRecord, DefinitionRecord, ValueRecord
from profilelake.state.records import IdentRecord, ProfileRecord, encode
from profilelake.state.store import Db, State
from profilelake.workspaces.control import Control

WORKSPACE = "default"
AT = 1_772_359_210_000_000
LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Measured:
    """What one way of sending took."""

    records: int
    seconds: float
    cpu_seconds: float

    def line(self, name: str) -> str:
        """Return it for people."""
        rate, cost = self.records / self.seconds, self.cpu_seconds / self.records * 1e6
        return f"{name:<12} {rate:>10,.0f} records/s   {cost:>7.1f} us CPU per record   {self.seconds:.2f} s"


async def _app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def _receive(listening: socket.socket) -> None:
    config = uvicorn.Config(_app, log_config=None, access_log=False, lifespan="off")
    uvicorn.Server(config).run([listening])


def _state(directory: Path, members: int) -> State:
    """Return a state with one audience of so many members, each with a user id and an e-mail address."""
    state = State.open(directory, writable=True)
    state.ensure([WORKSPACE])
    definition = Definition("vip", "audience", "event('Order Completed').count() >= 1")
    body = facts.encode(facts.Define(by="benchmark", definition=definition))
    position = Position(AT, "local", "00" * 8, 0, 0).to_bytes()
    rng = random.Random(1)
    keys = sorted(rng.randbytes(16) for _ in range(members))
    with state.write() as tx:
        tx.put(WORKSPACE, Db.DEFINITION_FACT, position, body)
        tx.put(WORKSPACE, Db.DEFINITION, b"vip", encode(DefinitionRecord(1, "vip", "live", 1)))
        tx.put_meta(WORKSPACE, "progress", {"epoch": "1".zfill(20), "sequence": 1, "watermark": AT})
        for number, key in enumerate(keys):
            idents = [(rng.randbytes(16), "user_id"), (rng.randbytes(16), "email")]
            values = (f"user-{number}", f"user-{number}@example.org")
            for (ident, type), value in zip(idents, values, strict=True):
                record = IdentRecord(0, type, value, "shop", "m", AT, position, key)
                tx.put(WORKSPACE, Db.IDENT, ident, encode(record))
            tx.put(WORKSPACE, Db.PROFILE, key, encode(ProfileRecord(0, position, idents, [key])))
            worth = ComputedRecord(0, {1: ValueRecord("true", AT + number, 1)})
            tx.put(WORKSPACE, Db.COMPUTED, key, encode(worth))
    return state


def _activate(directory: Path, state: State, url: str, members: int, batch: int, parallel: int) -> Measured:
    secret_files.store(directory / "secrets", "hook", "secret")
    with Control.open(directory / "control.sqlite", secrets.token_bytes) as control:
        control.ensure_default(now=wall())
        destination = Destination("hook", "webhook", url, secret="hook", batch=batch, parallel=parallel)
        control.destinations(WORKSPACE).put(destination, now=wall())
    activating = Activating(
        workspace=WORKSPACE,
        state=lambda: state,
        control=directory / "control.sqlite",
        journal=directory / "activations.sqlite",
        secrets=directory / "secrets",
        environment={},
        settings=ActivateSettings(allow_private="127.0.0.0/8"),
        clock=wall,
        rng=random.Random(1),
        metrics=ActivateMetrics(CollectorRegistry()),
        resolve=resolve,
        random_bytes=secrets.token_bytes,
    )

    async def main() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(activating.run(stop))
        with Journal.open(directory / "activations.sqlite") as journal:
            while journal.health("hook").delivered < members:  # noqa: ASYNC110 - it is in a file
                await asyncio.sleep(LOOK_SECONDS)
        stop.set()
        await running

    return _measured(members, main)


def _plain(url: str, bodies: list[bytes], members: int, parallel: int) -> Measured:
    async def main() -> None:
        waiting = iter(bodies)
        limits = httpx.Limits(max_connections=parallel, max_keepalive_connections=parallel)

        async def lane(client: httpx.AsyncClient) -> None:
            for body in waiting:
                signature = hmac.digest(b"secret", body, sha256).hex()
                headers = {"content-type": "application/json", "webhook-signature": signature}
                (await client.post(url, content=body, headers=headers)).raise_for_status()

        async with httpx.AsyncClient(limits=limits, trust_env=False) as client:
            await asyncio.gather(*(lane(client) for _ in range(parallel)))

    return _measured(members, main)


def _measured(records: int, main: Callable[[], Coroutine[Any, Any, Any]]) -> Measured:
    before, began = _cpu(), time.perf_counter()
    asyncio.run(main())
    return Measured(records, time.perf_counter() - began, _cpu() - before)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure both ways and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--parallel", type=int, default=4)
    given = parser.parse_args()
    print(machine().line())
    print(f"{given.members:,} members, batches of {given.batch}, {given.parallel} requests under way, seed 1")
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/hook"
    receiver = multiprocessing.get_context("fork").Process(target=_receive, args=(listening,), daemon=True)
    receiver.start()
    try:
        with tempfile.TemporaryDirectory() as place:
            directory = Path(place)
            state = _state(directory / "state", given.members)
            told = _activate(directory, state, url, given.members, given.batch, given.parallel)
            state.close()
        record = {"event": "audience_entered", "definition": "vip", "value": True, "filler": "x" * 380}
        body = json.dumps({"records": [record] * given.batch}).encode()
        plain = _plain(url, [body] * (given.members // given.batch), given.members, given.parallel)
    finally:
        receiver.terminate()
        receiver.join()
    print(told.line("activation"))
    print(plain.line("plain httpx"))
    print(
        f"rate {told.seconds / plain.seconds:.2f} times slower; CPU {told.cpu_seconds / plain.cpu_seconds:.2f} times"
    )


if __name__ == "__main__":
    main()
