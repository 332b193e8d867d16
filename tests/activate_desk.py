"""A data directory as far as activation needs one: destinations, a state, and the process that tells them."""

import asyncio
import base64
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from activate_world import WORKSPACE, World
from profilelake.activate import secret_files
from profilelake.activate.addresses import resolve
from profilelake.activate.journal import Health, Journal
from profilelake.activate.metrics import ActivateMetrics
from profilelake.activate.run import Activating
from profilelake.ops.clock import Clock, wall
from profilelake.semantics.destinations import Destination
from profilelake.settings import ActivateSettings
from profilelake.workspaces.control import Control
from profilelake.workspaces.destinations import Held

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef").decode()


class Desk:
    """A data directory as far as activation needs one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.world = World(directory / "state")
        self.control_path = directory / "control.sqlite"
        with self._control() as control:
            control.ensure_default(now=wall())
        secret_files.store(directory / "secrets", "hook", SECRET)

    def _control(self) -> Control:
        return Control.open(self.control_path, random.Random(1).randbytes)

    def put(self, name: str, url: str, **more: Any) -> None:
        told = {"type": "webhook", "secret": "hook"} | more
        with self._control() as control:
            control.destinations(WORKSPACE).put(Destination(name, url=url, **told), now=wall())

    def held(self, name: str) -> Held:
        with self._control() as control:
            return control.destinations(WORKSPACE).one(name)

    def resume(self, name: str) -> None:
        with self._control() as control:
            control.destinations(WORKSPACE).resume(name, now=wall())

    def health(self, name: str) -> Health:
        with Journal.open(self.directory / "activations.sqlite") as journal:
            return journal.health(name)

    @contextmanager
    def activating(self, clock: Clock = wall, **settings: Any) -> Iterator[None]:
        self.registry = CollectorRegistry()
        told = ActivateSettings(**{"allow_private": "127.0.0.0/8", "answer_seconds": 2.0} | settings)
        activating = Activating(
            workspace=WORKSPACE,
            state=lambda: self.world.state,
            control=self.control_path,
            journal=self.directory / "activations.sqlite",
            secrets=self.directory / "secrets",
            environment={"OTHER": "plain"},
            settings=told,
            clock=clock,
            rng=random.Random(5),
            metrics=ActivateMetrics(self.registry),
            resolve=resolve,
            random_bytes=random.Random(2).randbytes,
        )
        ready, failures = threading.Event(), []
        stop: list[Any] = []

        async def main() -> None:
            event = asyncio.Event()
            stop.extend((asyncio.get_running_loop(), event))
            ready.set()
            await activating.run(event)

        def work() -> None:
            try:
                asyncio.run(main())
            except BaseException as error:  # noqa: BLE001 - raised by the test
                failures.append(error)
                ready.set()

        thread = threading.Thread(target=work)
        thread.start()
        ready.wait()
        try:
            yield
        finally:
            if stop:
                stop[0].call_soon_threadsafe(stop[1].set)
            thread.join()
        assert not failures, failures

    def members(self, count: int) -> None:
        """Have so many profiles, all of them in the audience `vip`."""
        self.world.define("vip")
        for number in range(1, count + 1):
            self.world.profile(number, [f"user_id:u{number}"])
        self.world.change("vip", dict.fromkeys(range(1, count + 1), "true"))

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        with Journal.open(self.directory / "activations.sqlite") as journal:
            yield journal

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)
