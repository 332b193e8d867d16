"""Whatever happens, and however it is cut into turns: what a destination was told last is what holds."""

import json
import tempfile
from pathlib import Path
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from activate_world import SECOND, START, WORKSPACE, World
from profilelake.activate import resync, retention, telling
from profilelake.activate.feed import Gone
from profilelake.activate.journal import Journal
from profilelake.semantics.destinations import Destination, IdSync
from profilelake.workspaces.destinations import Held

PROFILES: Final = (1, 2, 3)
KEYS: Final = ("vip", "score")

changes = st.tuples(
    st.just("change"), st.sampled_from(KEYS), st.sampled_from(PROFILES), st.sampled_from([None, "1", "2"])
)
step = st.one_of(
    changes,
    changes,
    changes,
    st.tuples(st.just("identifier"), st.sampled_from(PROFILES), st.integers(0, 3)),
    st.tuples(st.just("consent"), st.sampled_from(PROFILES), st.booleans()),
    st.tuples(st.just("begin")),
    st.tuples(st.just("resync"), st.sampled_from(KEYS)),
    st.tuples(st.just("trim")),
    st.tuples(st.just("rebuilt")),
)
steps = st.lists(st.tuples(step, st.integers(0, 3)), min_size=5, max_size=30)
"""What happens, and how many turns are taken then."""


class Desk:
    """One history and one destination that hears of it."""

    def __init__(self, directory: Path, destination: Destination, most: int) -> None:
        self.directory, self.destination, self.most = directory, destination, most
        self.identifiers = {number: [f"user_id:u{number}"] for number in PROFILES}
        self.consents: dict[int, bool] = {}
        self.values: dict[tuple[str, int], str] = {}
        self.told: list[dict[str, Any]] = []
        self.lives = 0
        self.journal = Journal.open(directory / "journal.sqlite")
        self.live()

    def live(self) -> None:
        """Begin a life of the state, in which everything holds that held before."""
        self.lives += 1
        self.world = World(self.directory / f"state{self.lives}", epoch=self.lives)
        self.world.define("vip")
        self.world.define("score", "trait")
        for number in PROFILES:
            self.person(number)
        for (key, number), value in self.values.items():
            self.world.change(key, {number: value}, silent=True)
        self.begin()

    def person(self, number: int) -> None:
        allowed = self.consents.get(number)
        consent = None if allowed is None else {"ads": allowed}
        self.world.profile(number, self.identifiers[number], consent=consent, touched=True)

    def begin(self) -> None:
        with self.world.state.read(WORKSPACE) as tx:
            telling.begin(tx, WORKSPACE, self.journal, Held(self.destination, None, START, START), START)

    def turn(self) -> bool:
        try:
            with self.world.state.read(WORKSPACE) as tx:
                turn = telling.turn(tx, WORKSPACE, self.journal, self.destination, most=self.most)
        except Gone:
            self.begin()
            return True
        if turn is None:
            return False
        self.journal.put(self.destination.name, turn, seen=0)
        for batch in self.journal.waiting(self.destination.name):
            self.told += [json.loads(record.body) for record in batch.records]
            self.journal.delivered(self.destination.name, batch, len(batch.records), now=0)
        return True

    def change(self, key: str, number: int, value: str | None) -> None:
        if self.values.get((key, number)) == value:
            return
        self.world.change(key, {number: value})
        if value is None:
            del self.values[key, number]
        else:
            self.values[key, number] = value

    def step(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("change", key, number, value):
                self.change(key, number, "true" if key == "vip" and value is not None else value)
            case ("identifier", number, which):
                added = f"email:e{number}{which}"
                if added not in self.identifiers[number]:
                    self.identifiers[number].append(added)
                self.person(number)
            case ("consent", number, allowed):
                self.consents[number] = allowed
                self.person(number)
            case ("begin",):
                self.begin()
            case ("resync", key):
                resync.ask(self.world.state, WORKSPACE, self.journal, self.destination, [key], now=0)
            case ("trim",):
                retention.trim(self.world.state, WORKSPACE, self.world.at + SECOND, bool)
            case ("rebuilt",):
                self.world.close()
                self.live()

    def close(self) -> None:
        self.journal.close()
        self.world.close()


@settings(max_examples=30)
@given(steps=steps, most=st.sampled_from([1, 2, 3, 100]), asks=st.booleans())
def test_what_was_told_last_is_what_holds(
    steps: list[tuple[tuple[Any, ...], int]], most: int, asks: bool
) -> None:
    destination = Destination(
        "hook", "webhook", "https://example.org/", secret="s", consent=("ads",) if asks else (),
        ids=(IdSync("user_id"), IdSync("email", "all")),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        desk = Desk(Path(place), destination, most)
        try:
            for step, turns in steps:
                desk.step(step)
                for _ in range(turns):
                    desk.turn()
            for _ in range(400):
                if not desk.turn():
                    break
            else:
                raise AssertionError("it never ends")
            check(desk, asks=asks)
        finally:
            desk.close()


def check(desk: Desk, *, asks: bool) -> None:
    last: dict[tuple[str, int], tuple[Any, set[str]]] = {}
    for one in desk.told:
        ids = {id["id"] for id in one["external_ids"]}
        number = next(int(id[1:]) for id in ids if id.startswith("u"))
        last[one["definition"], number] = (one["value"], ids)
    held = {
        place: json.loads(value)
        for place, value in desk.values.items()
        if not asks or desk.consents.get(place[1], False)
    }
    assert {place: value for place, (value, _) in last.items() if value not in (False, None)} == held
    for (_, number), (value, ids) in last.items():
        if value not in (False, None):
            assert ids == {identifier.partition(":")[2] for identifier in desk.identifiers[number]}
    keys: dict[str, bytes] = {}
    for one in desk.told:  # a key stands for one thing
        said = json.dumps({name: one[name] for name in ("definition", "profile_id", "value")}).encode()
        assert keys.setdefault(one["idempotency_key"], said) == said
