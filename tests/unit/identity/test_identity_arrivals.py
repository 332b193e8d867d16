"""Sets as they come: what is new, what is late, and what is seen of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from profilelake.identity.arrivals import Arrivals, Met
from profilelake.identity.facts import Standing
from profilelake.identity.linking import Linking
from profilelake.identity.rows import IdentityRows
from profilelake.landing.land import SetSightings
from profilelake.semantics.positions import POSITION_BYTES, Position
from profilelake.semantics.rules import IdentityRules, TypeRule, segment_defaults
from profilelake.state.records import NOBODY
from profilelake.state.store import State
from profilelake.state.working import Working

DAY = 86_400_000_000
NOTHING = b"\0" * POSITION_BYTES
WITH_WINDOWS = IdentityRules(
    version=1,
    types=tuple(
        TypeRule(name, place, limit=5, window_seconds=86_400)
        for place, name in enumerate(("user_id", "email"), start=1)
    ),
)
Seen = tuple[int, tuple[str, ...]]
"""When a set was seen, and its identifiers as `type:value`."""


def position(at: int) -> bytes:
    return Position(at, "eu", "00" * 8, 0, 0).to_bytes()


def id_of(*texts: str) -> bytes:
    return "+".join(texts).encode()[:16].ljust(16, b"\0")


def events_of(seen: list[Seen]) -> pa.Table:
    return pa.table(
        {
            "position": pa.array([position(at) for at, _ in seen], pa.binary(POSITION_BYTES)),
            "message_id": [f"m{at}" for at, _ in seen],
            "source_id": ["web"] * len(seen),
            "set_id": pa.array([id_of(*idents) for _, idents in seen], pa.binary(16)),
        }
    )


def words(ids: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(ids), dtype=np.uint64).reshape(-1, 2)


def sightings_of(seen: list[Seen]) -> SetSightings:
    firsts: dict[tuple[str, ...], int] = {}
    for row, (_, idents) in enumerate(seen):
        firsts.setdefault(idents, row)
    members = [one for idents in firsts for one in idents]
    stop = np.cumsum([len(idents) for idents in firsts], dtype=np.int64)
    first = np.array(list(firsts.values()), dtype=np.int64)
    return SetSightings(
        collection="users",
        set_ids=words([id_of(*idents) for idents in firsts]),
        first=first,
        last=first,
        counts=np.ones(len(firsts), dtype=np.int64),
        start=stop - [len(idents) for idents in firsts],
        stop=stop,
        ident_ids=words([id_of(one) for one in members]),
        types=pa.array([one.partition(":")[0] for one in members]),
        values=pa.array([one.partition(":")[2] for one in members]),
    )


class Desk:
    """Arrivals over a state, micro-batch by micro-batch."""

    def __init__(self, state: State, rules: IdentityRules) -> None:
        self.state = state
        self.held = Standing(rules)
        self.arrivals = Arrivals(self.held, Linking(rules), 1 << 10)
        self.applied = NOTHING

    def meet(self, *seen: Seen) -> Met:
        rows = IdentityRows(1, 1)
        with self.state.write() as tx:
            work = Working(tx, "w", 1)
            met = self.arrivals.meet(
                work, sightings_of(list(seen)), events_of(list(seen)), self.applied, rows
            )
            work.flush()
        self.applied = max(self.applied, position(seen[-1][0]))
        return met

    def first_seen(self, *idents: str) -> str:
        with self.state.write() as tx:
            work = Working(tx, "w", 1)
            work.load_sets([id_of(*idents)])
            return work.sets[id_of(*idents)].message_id

    def retract(self, at: int, *idents: str) -> None:
        self.held.retracted.setdefault(id_of(*idents), set()).add(position(at))
        self.arrivals.hold(self.held, Linking(self.held.rules))
        with self.state.write() as tx:
            self.arrivals.find_bare(Working(tx, "w", 1))


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State.open(tmp_path, writable=True)
    opened.ensure(["w"])
    yield opened
    opened.close()


def keys(met: Met) -> list[bytes]:
    return [entry.key for entry in met.new]


def test_a_set_is_new_once_and_its_identifiers_are_fresh_once(state: State) -> None:
    desk = Desk(state, segment_defaults())
    met = desk.meet((1, ("user_id:u", "email:e")), (2, ("email:e", "anonymous_id:a")))
    assert keys(met) == [id_of("user_id:u", "email:e"), id_of("email:e", "anonymous_id:a")]
    assert met.fresh == {id_of("user_id:u"), id_of("email:e"), id_of("anonymous_id:a")}
    assert [entry.record.profile for entry in met.new] == [NOBODY, NOBODY]
    assert met.new[0].record.anchor == id_of("user_id:u")
    again = desk.meet((3, ("user_id:u", "email:e")), (4, ("user_id:u", "anonymous_id:b")))
    assert keys(again) == [id_of("user_id:u", "anonymous_id:b")]
    assert again.fresh == {id_of("anonymous_id:b")}
    assert not again.late


def test_several_identifiers_of_one_type_in_a_new_set_are_told(state: State) -> None:
    desk = Desk(state, segment_defaults())
    met = desk.meet((1, ("user_id:u", "email:e")), (2, ("email:e", "email:f")))
    assert [record.message_id for record in met.wide] == ["m2"]


def test_a_set_seen_before_what_was_applied_is_late_and_known_from_then(state: State) -> None:
    desk = Desk(state, segment_defaults())
    desk.meet((10, ("user_id:u",)))
    desk.meet((20, ("user_id:u",)))
    late = desk.meet((5, ("user_id:u",)), (6, ("user_id:v",)))
    assert sorted(late.late) == [id_of("user_id:u"), id_of("user_id:v")]
    assert not late.new
    assert desk.first_seen("user_id:u") == "m5"
    assert not desk.meet((7, ("user_id:u",))).late


def test_copies_move_a_set_back_and_nothing_else(state: State) -> None:
    desk = Desk(state, segment_defaults())
    desk.meet((10, ("user_id:u",)), (11, ("user_id:v",)))
    copies = events_of([(4, ("user_id:u",)), (12, ("user_id:v",)), (3, ("user_id:nobody",))])
    with state.write() as tx:
        work = Working(tx, "w", 2)
        assert desk.arrivals.move_back(work, "users", copies) == [id_of("user_id:u")]
        work.flush()
    assert (desk.first_seen("user_id:u"), desk.first_seen("user_id:v")) == ("m4", "m11")


def test_a_known_set_is_met_anew_in_a_new_window(state: State) -> None:
    desk = Desk(state, WITH_WINDOWS)
    assert keys(desk.meet((1, ("user_id:u", "email:e")))) == [id_of("user_id:u", "email:e")]
    assert not keys(desk.meet((2, ("user_id:u", "email:e"))))
    met = desk.meet((DAY + 1, ("user_id:u", "email:e")))
    assert keys(met) == [id_of("user_id:u", "email:e")]
    assert met.new[0].idents == [id_of("user_id:u"), id_of("email:e")]


def test_a_set_without_an_event_that_counts_is_late_with_its_next(state: State) -> None:
    desk = Desk(state, segment_defaults())
    desk.meet((1, ("user_id:u", "email:e")))
    desk.retract(1, "user_id:u", "email:e")
    # Who shares an identifier with it may give it an owner.
    assert desk.meet((2, ("email:e",))).late == [id_of("email:e")]
    assert desk.meet((3, ("user_id:u", "email:e"))).late == [id_of("user_id:u", "email:e")]
    assert desk.first_seen("user_id:u", "email:e") == "m3"


def test_an_event_retracted_before_it_comes_shows_its_set_no_sooner(state: State) -> None:
    desk = Desk(state, segment_defaults())
    desk.retract(1, "user_id:u")
    met = desk.meet((1, ("user_id:u",)), (2, ("user_id:u",)))
    assert [entry.first.message_id for entry in met.new] == ["m2"]
