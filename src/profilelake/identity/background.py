"""Resolve components again that are too large to hold everybody else up.

What has to be resolved again is noted in the state, so that a stop forgets nothing. The answer is
worked out beside the pipeline on a snapshot; putting it in place takes in what came meanwhile. Until
then the component shows what it showed before, with new events in their order of arrival.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy

import msgspec

from profilelake.identity import replay
from profilelake.identity.facts import Standing
from profilelake.identity.linking import Linking
from profilelake.identity.poison import split
from profilelake.identity.replay import Before, Component, Solution
from profilelake.identity.rows import IdentityRows, Sighting
from profilelake.semantics.rules import COLLECTIONS, Collection
from profilelake.state.records import encode, received_at
from profilelake.state.store import Db, Tx
from profilelake.state.working import Working

PENDING = "replays"
"""Name under which the state keeps what waits."""


class Pending(msgspec.Struct):
    """Components to resolve again: those of the sets `seeds`, or with `whole` all there are.

    `position` is that of the fact that asked, and says since when they wait.
    """

    collection: Collection
    seeds: list[bytes]
    whole: bool
    cause: str
    position: bytes


def load(tx: Tx, workspace: str) -> list[Pending]:
    """Return what waits to be resolved again."""
    value = tx.meta(workspace, PENDING)
    return [] if value is None else msgspec.msgpack.decode(value, type=list[Pending])


def store(tx: Tx, workspace: str, waiting: list[Pending]) -> None:
    """Note what waits to be resolved again."""
    tx.put(workspace, Db.META, PENDING.encode(), encode(waiting))


def oldest(waiting: list[Pending]) -> int | None:
    """Return since when something waits, in microseconds."""
    return min((received_at(one.position) for one in waiting), default=None)


class Job:
    """One pending replay on its way: gathered and solved in a thread of its own, finished by the writer."""

    def __init__(self, pending: Pending, linking: Linking, held: Standing) -> None:
        """Work under the decisions that hold now."""
        self.pending = pending
        self._linking = linking
        self._held = deepcopy(held)
        self._component = Component(pending.collection)
        self._solution = Solution()
        self._snapshot: Before = Before({}, {}, {})
        self._touched: dict[Db, set[bytes]] = {Db.SET: set(), Db.IDENT: set(), Db.PROFILE: set()}
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._cancelled = False

    def start(self, read: Callable[[], AbstractContextManager[Tx]], workspace: str) -> None:
        """Begin. What is written from now on must be told by `note`."""
        snapshot = read()
        # Begun here, so that nothing is written between the snapshot and the first `note`.
        tx = snapshot.__enter__()
        self._thread = threading.Thread(
            target=self._run, args=(snapshot, tx, workspace), name="identity-replay", daemon=True
        )
        self._thread.start()

    def _run(self, snapshot: AbstractContextManager[Tx], tx: Tx, workspace: str) -> None:
        try:
            work = Working(tx, workspace, 0)
            self._component = self._gathered(work)
            if self._cancelled:
                return
            self._solution = replay.solve(work.idents, self._component, self._linking, self._held)
            work.load_profiles(
                replay.held_profiles(work.idents, work.sets, self._component) | self._solution.profiles.keys()
            )
            self._snapshot = Before(work.idents, work.sets, work.profiles)
        except BaseException as error:  # noqa: BLE001 - raised again by `finish`, in the writer's thread
            self._error = error
        finally:
            snapshot.__exit__(None, None, None)

    def _gathered(self, work: Working) -> Component:
        collection = self.pending.collection
        if self.pending.whole:
            return replay.everything(work, collection, self._linking, self._held)
        component = Component(collection)
        replay.follow(
            work,
            component,
            set(self.pending.seeds),
            set(),
            self._linking,
            self._held,
            whole_profiles=True,
            stopped=lambda: self._cancelled,
        )
        component.sort()
        return component

    def cancel(self) -> None:
        """Let the thread end at its next step; nobody will ask for its answer."""
        self._cancelled = True

    def ready(self) -> bool:
        """Tell whether `finish` need not wait."""
        return self._thread is not None and not self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Wait for the answer, at most that long."""
        if self._thread is not None:
            self._thread.join(seconds)

    def note(self, work: Working) -> None:
        """Take note of what a micro-batch has changed since the snapshot."""
        for db, keys in self._touched.items():
            keys |= work.written(db)

    def finish(self, work: Working, rows: IdentityRows) -> None:
        """Put the answer in place, with what came since the snapshot.

        Raises: whatever made working it out impossible; the replay still waits then.
        """
        if self._error is not None:
            raise self._error
        component = self._component
        touched = self._touched[Db.SET]
        work.load_sets(touched)
        number = COLLECTIONS.index(component.collection)
        since = {key for key in touched if key in work.sets and work.sets[key].collection == number}
        came = {
            key
            for key in since
            if key in component.sets or not component.idents.isdisjoint(split(work.sets[key].idents))
        }
        if came:
            component.entries = [entry for entry in component.entries if entry.key not in came]
            # All sets of the identifiers in hand are here, or came since.
            replay.follow(
                work, component, came, set(component.idents), self._linking, self._held, whole_profiles=True
            )
            component.sort()
            live = self._live(work)
            self._solution = replay.solve(live.idents, component, self._linking, self._held)
            work.load_profiles(
                replay.held_profiles(live.idents, live.sets, component) | self._solution.profiles.keys()
            )
        live = self._live(work)
        if component.sets:
            first = min(component.sets)
            evidence = first, Sighting(self.pending.position, "", "")
            replay.install(work, live, component, self._solution, rows, self.pending.cause, evidence)
        if self.pending.whole:
            for key in component.sets.keys() & self._solution.refusals.keys():
                work.publish_refusals(key)  # each names the version that refused

    def _live(self, work: Working) -> Before:
        """Return the records as they are now: those of the snapshot, but for what changed since."""
        work.load_idents(self._touched[Db.IDENT])
        work.load_profiles(self._touched[Db.PROFILE])
        profiles = dict(self._snapshot.profiles)
        for key in self._touched[Db.PROFILE]:
            profiles.pop(key, None)
        return Before(
            {**self._snapshot.idents, **work.idents},
            {**self._snapshot.sets, **work.sets},
            {**profiles, **work.profiles},
        )
