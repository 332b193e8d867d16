"""Whatever becomes of dead letters: none vanishes uncounted, and no older state follows a newer one."""

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from profilelake.activate.journal import Announced, Journal, Place, Turn
from profilelake.activate.letters import Sent, state_of
from profilelake.activate.packing import packed
from profilelake.semantics.destinations import Destination

HOOK: Final = Destination("hook", "webhook", "https://hook.example.org/", secret="hook", batch=2, parallel=2)
PLACE: Final = Place("1", b"", b"")
SUBJECTS: Final = (b"a" * 16, b"b" * 16, b"c" * 16)
VALUES: Final = (None, "1", "2")
MOST: Final = 3

told = st.tuples(st.just("tell"), st.sampled_from(SUBJECTS), st.sampled_from(VALUES))
outcomes = st.lists(st.booleans(), min_size=1, max_size=4)
common = [told, told, st.tuples(st.just("send"), outcomes), st.tuples(st.just("replay"), st.integers(1, 3))]
lost = [st.tuples(st.just("discard"), st.integers(1, 2)), st.tuples(st.just("expire"), st.integers(1, 2))]
keeping = st.lists(st.one_of(*common), max_size=40)
losing = st.lists(st.one_of(*common, *lost), max_size=40)


class Line:
    """One destination: what it was told, what its receiver has heard, and what was given up."""

    def __init__(self, directory: Path) -> None:
        self.journal = Journal.open(directory / "activations.sqlite")
        self.journal.begin("hook", PLACE)
        self.holds: dict[bytes, str | None] = {}
        self.heard: dict[bytes, list[str | None]] = {subject: [] for subject in SUBJECTS}
        self.made = self.delivered = self.now = 0

    def tell(self, subject: bytes, value: str | None) -> None:
        """Take the next change from the feed, as is done where nothing waits only."""
        while self.journal.waiting("hook"):
            self.send([True])
        self.made += 1
        body = json.dumps({"value": value}).encode()
        sent = Sent(f"k{self.made}", "score", "use_x", body, subject, state_of(value))
        now = None if value is None else Announced(state_of(value), 1, b"")
        turn = Turn(PLACE, packed(HOOK, [(subject, [sent])]), {(subject, "score"): now})
        self.journal.put("hook", turn, seen=0)
        self.holds[subject] = value

    def send(self, took: list[bool]) -> None:
        """Send the first batches of all lanes; what the receiver does not take is given up if there is room."""
        lanes = {batch.lane: batch for batch in reversed(self.journal.waiting("hook"))}
        for batch, good in zip(lanes.values(), took, strict=False):
            self.now += 1
            if good:
                for one in batch.records:
                    self.heard[one.subject].append(json.loads(one.body)["value"])
                self.delivered += len(batch.records)
                self.journal.delivered("hook", batch, len(batch.records), now=self.now)
            else:
                self.journal.bury("hook", batch, 1, "refused", 422, now=self.now, most=MOST)
        self.check()

    def replay(self, most: int) -> None:
        self.journal.letters.ask_replay("hook", None)
        self.journal.send_again("hook", most, partial(packed, HOOK))
        self.check()

    def step(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("tell", subject, value):
                self.tell(subject, value)
            case ("send", took):
                self.send(took)
            case ("replay", most):
                self.replay(most)
            case ("discard", most):
                ids = [one.id for one in self.journal.letters.listed("hook", most=most)]
                assert self.journal.letters.discard("hook", ids) == len(ids)
            case ("expire", most):
                self.journal.letters.expire("hook", self.now, most, now=self.now)
        self.check()

    def check(self) -> None:
        """Hold the counts against what is there."""
        letters = self.journal.letters.of("hook")
        assert letters.held == len(self.journal.letters.listed("hook")) <= MOST
        gone = letters.replayed + letters.outdated + letters.discarded + letters.expired
        assert letters.taken == letters.held + gone
        waiting = self.journal.health("hook").waiting
        lost = letters.outdated + letters.discarded + letters.expired
        assert self.made == self.delivered + waiting + letters.held + lost


@given(losing)
@settings(max_examples=60)
def test_no_letter_vanishes_uncounted(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        line = Line(Path(directory))
        for step in steps:
            line.step(step)
        line.journal.close()


@given(keeping)
@settings(max_examples=60)
def test_when_all_is_sent_again_the_receiver_has_what_holds(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        line = Line(Path(directory))
        for step in steps:
            line.step(step)
        while line.journal.waiting("hook") or line.journal.letters.of("hook").held:
            line.replay(2)
            line.send([True] * HOOK.parallel)
        for subject, value in line.holds.items():
            assert line.heard[subject][-1] == value
        line.journal.close()
