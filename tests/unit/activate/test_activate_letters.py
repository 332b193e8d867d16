"""Dead letters: a limit, an age, and what is outdated."""

import asyncio
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from activate_desk import Desk
from profilelake.activate import journal as journal_module
from profilelake.activate import letters as letters_module
from profilelake.activate import run as run_module
from profilelake.activate import worker
from profilelake.activate.journal import Announced, Batch, Journal, Place, Turn
from profilelake.activate.letters import Sent, state_of
from profilelake.activate.packing import packed
from profilelake.activate.shown import shape
from profilelake.errors import Invalid, NotFound
from profilelake.manage.answers import PAGE_ROWS_MAX
from profilelake.ops.clock import wall
from profilelake.semantics.destinations import Destination
from receivers import Request, receiving, wait_until

HOOK = Destination("hook", "webhook", "https://hook.example.org/", secret="hook", parallel=1)
DAY = 86_400_000_000
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "BACK_OFF_FIRST_SECONDS", 0.02)
    monkeypatch.setattr(worker, "ROOM_SECONDS", 0.02)
    monkeypatch.setattr(run_module, "LOOK_AT_DESTINATIONS_SECONDS", 0.05)
    monkeypatch.setattr(run_module, "LETTERS_SECONDS", 0.05)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "activations.sqlite") as opened:
        opened.begin("hook", Place("1", b"", b""))
        yield opened


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.world.close()


def subject(number: int) -> bytes:
    return number.to_bytes(16, "big")


def letter(number: int, value: str | None = "true", key: str = "") -> Sent:
    body = msgspec.json.encode({"value": msgspec.Raw((value or "null").encode())})
    return Sent(key or f"k{number}", "vip", "use_x", body, subject(number), state_of(value))


def tell(journal: Journal, *sent: Sent) -> None:
    """Note records as what was told last."""
    announced = {
        (one.subject, one.definition): Announced(one.state, 1, b"") if one.state else None for one in sent
    }
    batches = packed(HOOK, [(one.subject, [one]) for one in sent])
    journal.put("hook", Turn(Place("1", b"", b""), batches, announced), seen=0)


def give_up(journal: Journal, *, now: int = 0, most: int = 1_000_000) -> None:
    """Have all that waits become letters."""
    while waiting := journal.waiting("hook"):
        for batch in waiting:
            left = journal.bury("hook", batch, len(batch.records), "refused", 422, now=now, most=most)
            if left.records:
                return


def again(journal: Journal, most: int = 1_000) -> tuple[int, int]:
    became = journal.send_again("hook", most, partial(packed, HOOK))
    return became.replayed, became.outdated


# ---- what there may be ---------------------------------------------------------------------------


def test_there_are_no_more_letters_than_there_may_be_and_the_rest_waits(journal: Journal) -> None:
    tell(journal, *(letter(number) for number in range(10)))
    give_up(journal, now=5, most=4)
    assert (journal.health("hook").dead, journal.health("hook").waiting) == (4, 6)
    give_up(journal, now=7, most=4)
    letters = journal.letters.of("hook")
    assert (letters.taken, letters.held) == (4, 4)
    journal.letters.discard("hook", None)
    give_up(journal, now=8, most=4)
    assert (journal.health("hook").dead, journal.health("hook").waiting) == (4, 2)


def test_a_full_destination_waits_and_says_why_and_goes_on_when_there_is_room(desk: Desk) -> None:
    desk.members(6)
    bad = {"u2", "u4", "u5"}

    def picky(request: Request) -> tuple[int, dict[str, str]]:
        hit = [one for one in request.records if one["external_ids"][0]["id"] in bad]
        return (422 if hit else 200), {}

    with receiving(picky) as receiver:
        desk.put("hook", receiver.url, parallel=1)
        with desk.activating(dead_letters_max=2):
            receiver.wait(2)  # u1 and u3
            wait_until(lambda: desk.health("hook").letters.full_since)
            shown = shape(desk.held("hook"), desk.health("hook"))
            assert (shown["state"], shown["dead"], shown["waiting"]) == ("full", 2, 2)
            assert "activate.dead_letters_max" in shown["trouble"]
            wait_until(lambda: desk.sample("profilelake_activate_dead_letters_full", destination="hook"))
            assert desk.sample("profilelake_activate_dead_letters", destination="hook") == 2
            assert desk.sample("profilelake_activate_dead_letters_limit") == 2
            assert desk.sample(
                "profilelake_activate_limits_total", destination="hook", limit="dead_letters_max"
            )
            desk.world.change("vip", {1: None})
            # What is new waits in the feed; nothing is lost, and nothing more is held here.
            assert desk.health("hook").waiting == 2
            with desk.journal() as journal:
                assert journal.letters.discard("hook", None) == 2
            receiver.wait(4)  # u6, and that u1 has left
            wait_until(lambda: desk.health("hook").letters.taken == 3)
            wait_until(lambda: not desk.sample("profilelake_activate_dead_letters_full", destination="hook"))
        assert shape(desk.held("hook"), desk.health("hook"))["state"] == "live"
        assert [one["value"] for one in receiver.records] == [True, True, True, False]


def test_what_waits_for_room_goes_when_the_receiver_takes_it(desk: Desk) -> None:
    desk.members(6)
    with receiving(lambda _request: (422, {})) as receiver:
        desk.put("hook", receiver.url, parallel=3)
        with desk.activating(dead_letters_max=1):
            wait_until(lambda: desk.health("hook").letters.full_since)
            receiver.answer = lambda _request: (200, {})
            receiver.wait(5)
            wait_until(lambda: not desk.health("hook").letters.full_since)
            # Full, but nobody waits for room: it goes on.
            desk.world.change("vip", {1: None})
            receiver.wait(6)
            assert shape(desk.held("hook"), desk.health("hook"))["state"] != "full"
    assert (desk.health("hook").dead, desk.health("hook").waiting) == (1, 0)


def test_a_greater_limit_lets_a_full_destination_go_on(desk: Desk) -> None:
    desk.members(4)
    with receiving(lambda _request: (422, {})) as receiver:
        desk.put("hook", receiver.url, parallel=1)
        with desk.activating(dead_letters_max=1):
            wait_until(lambda: desk.health("hook").letters.full_since)
        with desk.activating(dead_letters_max=10):
            wait_until(lambda: desk.health("hook").dead == 4)
            wait_until(lambda: not desk.health("hook").letters.full_since)


def test_a_full_destination_whose_receiver_takes_what_waits_is_full_no_more(desk: Desk) -> None:
    desk.members(3)
    with receiving(lambda _request: (422, {})) as receiver:
        desk.put("hook", receiver.url, parallel=1)
        with desk.activating(dead_letters_max=2):
            wait_until(lambda: desk.health("hook").letters.full_since)
            receiver.answer = lambda _request: (200, {})
            receiver.wait(1)
            wait_until(lambda: not desk.health("hook").waiting)
            shown = shape(desk.held("hook"), desk.health("hook"))
            assert (shown["state"], shown["trouble"], shown["dead"]) == ("live", "", 2)
            desk.world.change("vip", {1: None})
            receiver.wait(2)
            wait_until(lambda: not desk.sample("profilelake_activate_dead_letters_full", destination="hook"))


def test_there_is_room_once_letters_have_gone_though_nobody_works(journal: Journal) -> None:
    """Of a destination that is paused too: what it says must not be of a time before."""
    for fate in ("discarded", "expired", "outdated"):
        tell(journal, letter(1), letter(2), letter(3))
        give_up(journal, now=1, most=2)
        journal.letters.waits_since("hook", 2)
        # Nothing has gone by this, so nothing is said of room.
        assert again(journal) == (0, 0)
        journal.letters.discard("hook", [])
        assert journal.letters.of("hook").full_since == 2
        if fate == "discarded":
            journal.letters.discard("hook", None)
        elif fate == "expired":
            journal.letters.expire("hook", 9, 9, now=9)
        else:
            journal.put(
                "hook",
                Turn(Place("1", b"", b""), [], {(subject(n), "vip"): None for n in (1, 2, 3)}),
                seen=0,
            )
            journal.letters.ask_replay("hook", None)
            assert again(journal) == (0, 2)
        assert (journal.letters.of("hook").full_since, journal.letters.of("hook").held) == (0, 0)
        give_up(journal, now=3, most=9)
        journal.letters.discard("hook", None)


def test_letters_of_a_full_destination_can_be_sent_again(desk: Desk) -> None:
    """What waits for room, and the letters that could make some, do not wait for each other."""
    desk.members(9)
    with receiving(lambda _request: (422, {})) as receiver:
        desk.put("hook", receiver.url, parallel=1, batch=3)
        with desk.activating(dead_letters_max=3):
            wait_until(lambda: desk.health("hook").letters.full_since)
            with desk.journal() as journal:
                assert journal.letters.ask_replay("hook", None) == 3
            wait_until(lambda: desk.health("hook").letters.taken == 6)
            wait_until(lambda: desk.health("hook").letters.full_since)
            # They were refused once more, and nothing has gone meanwhile.
            assert desk.health("hook").dead + desk.health("hook").waiting == 9
            receiver.answer = lambda _request: (200, {})
            with desk.journal() as journal:
                journal.letters.ask_replay("hook", None)
            receiver.wait(9)
            wait_until(lambda: desk.health("hook").dead == 0)
    assert len({one["idempotency_key"] for one in receiver.records}) == 9


def test_with_a_limit_that_was_lowered_others_are_told_while_room_is_made(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.members(12)
    original = worker.Worker._again
    turns: list[int] = []
    others = [0]

    def spied(self: worker.Worker, full_at: int = 0) -> bool:
        if full_at:
            turns.append(others[0])
            asyncio.get_running_loop().call_soon(lambda: others.__setitem__(0, others[0] + 1))
        return original(self, full_at)

    monkeypatch.setattr(worker.Worker, "_again", spied)
    monkeypatch.setattr(worker.Worker, "_turn", 1)
    with receiving(lambda _request: (422, {})) as receiver:
        desk.put("hook", receiver.url, parallel=1)
        with desk.journal() as journal:
            journal.begin("hook", Place("1", b"", b""))
            tell(journal, *(letter(number) for number in range(10)))
            give_up(journal)
            journal.letters.ask_replay("hook", None)
            tell(journal, letter(11))
        with desk.activating(dead_letters_max=2):
            wait_until(lambda: len(turns) >= 9)
    # Something else was done between any two pages.
    assert turns[:9] == sorted(set(turns[:9]))


def test_the_largest_page_over_http_tells_that_there_are_more(journal: Journal) -> None:
    tell(journal, *(letter(number) for number in range(PAGE_ROWS_MAX + 2)))
    give_up(journal)
    assert len(journal.letters.listed("hook", 0, PAGE_ROWS_MAX + 1)) == PAGE_ROWS_MAX + 1


# ---- age -----------------------------------------------------------------------------------------


def test_old_letters_expire_page_by_page_and_are_counted(journal: Journal) -> None:
    tell(journal, *(letter(number) for number in range(5)))
    give_up(journal, now=DAY)
    tell(journal, letter(9))
    give_up(journal, now=3 * DAY)
    assert journal.letters.expire("hook", 2 * DAY, 3, now=4 * DAY) == 3
    assert journal.letters.any_before("hook", 2 * DAY)
    assert journal.letters.expire("hook", 2 * DAY, 3, now=5 * DAY) == 2
    assert journal.letters.expire("hook", 2 * DAY, 3, now=6 * DAY) == 0
    assert not journal.letters.any_before("hook", 2 * DAY)
    letters = journal.letters.of("hook")
    assert (letters.taken, letters.held, letters.expired, letters.expired_at) == (6, 1, 5, 5 * DAY)


def test_what_expires_at_the_start_is_counted_and_what_expired_before_is_not(desk: Desk) -> None:
    with desk.journal() as journal:
        journal.begin("hook", Place("1", b"", b""))
        tell(journal, letter(1), letter(2), letter(3))
        give_up(journal)
        journal.letters.expire("hook", 1, 1, now=1)
    desk.put("hook", "https://hook.example.org/", enabled=False)
    with desk.activating():
        wait_until(lambda: desk.health("hook").dead == 0)
        wait_until(
            lambda: (
                desk.sample(
                    "profilelake_activate_dead_letter_fates_total", destination="hook", outcome="expired"
                )
                == 2
            )
        )


def test_letters_are_looked_after_though_the_clock_was_set_back(desk: Desk) -> None:
    desk.put("hook", "https://hook.example.org/", enabled=False)
    offsets = [2 * DAY]
    with desk.activating(clock=lambda: wall() + offsets[0]):
        with desk.journal() as journal:
            journal.begin("hook", Place("1", b"", b""))
            tell(journal, letter(1))
            give_up(journal, now=wall())
        held = "profilelake_activate_dead_letters"
        wait_until(lambda: desk.sample(held, destination="hook") == 1)
        offsets[0] = 0
        with desk.journal() as journal:
            journal.letters.discard("hook", None)
        wait_until(lambda: desk.sample(held, destination="hook") == 0)


def test_a_journal_that_is_damaged_does_not_end_the_process(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    with desk.journal() as journal:
        journal.begin("hook", Place("1", b"", b""))
    path = desk.directory / "activations.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'letters'").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    desk.put("hook", "https://hook.example.org/", enabled=False)
    with desk.activating():
        wait_until(lambda: caplog.text.count("looking after dead letters failed") >= 2)


def test_letters_of_a_paused_destination_expire_too_and_it_is_told(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "EXPIRE_ROWS", 2)
    desk.members(5)
    with receiving(lambda _request: (422, {})) as receiver:
        desk.put("hook", receiver.url, parallel=1)
        with desk.activating():
            wait_until(lambda: desk.health("hook").dead == 5)
            receiver.answer = lambda _request: (410, {})
            desk.world.change("vip", {1: None})
            wait_until(lambda: desk.held("hook").paused)
            assert desk.health("hook").dead == 5
            with desk.journal() as journal:
                journal._connection.execute("UPDATE dead SET at = at - ? WHERE id <= 3", (31 * DAY,))
            wait_until(lambda: desk.health("hook").dead == 2)
            wait_until(
                lambda: (
                    desk.sample(
                        "profilelake_activate_dead_letter_fates_total", destination="hook", outcome="expired"
                    )
                    == 3
                )
            )
    shown = shape(desk.held("hook"), desk.health("hook"))
    assert (shown["letters"]["expired"], shown["letters"]["taken"], shown["letters"]["held"]) == (3, 5, 2)
    assert shown["letters"]["expired_at"]


def test_zero_days_keep_letters_for_ever(desk: Desk) -> None:
    desk.members(1)
    with receiving(lambda _request: (422, {})) as receiver:
        desk.put("hook", receiver.url)
        with desk.activating(dead_letters_days=0.0):
            wait_until(lambda: desk.health("hook").dead == 1)
            with desk.journal() as journal:
                journal._connection.execute("UPDATE dead SET at = 1")
            desk.put("second", receiver.url)
            # The second was looked after behind the first.
            wait_until(
                lambda: desk.sample("profilelake_activate_dead_letters", destination="second") is not None
            )
    assert desk.health("hook").dead == 1


# ---- sent again ----------------------------------------------------------------------------------


def test_a_letter_is_outdated_when_something_newer_was_told(desk: Desk) -> None:
    desk.world.define("score", "trait")
    desk.world.profile(1, ["user_id:u1"])
    with receiving() as receiver:
        desk.put("hook", receiver.url)
        with desk.activating():
            wait_until(lambda: desk.health("hook").seen_through)
            receiver.answer = lambda _request: (422, {})
            desk.world.change("score", {1: "1"})
            wait_until(lambda: desk.health("hook").dead == 1)
            receiver.answer = lambda _request: (200, {})
            desk.world.change("score", {1: "2"})
            receiver.wait(1)
            with desk.journal() as journal:
                assert journal.letters.ask_replay("hook", None) == 1
            wait_until(lambda: desk.health("hook").letters.outdated == 1)
            desk.world.change("score", {1: "3"})
            receiver.wait(2)
    assert [one["value"] for one in receiver.records] == [2, 3]
    assert desk.health("hook").dead == 0


def test_letters_are_sent_again_page_by_page(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: no more than a page is in memory, and a page has a size in bytes too."""
    count = 50_000
    for start in range(0, count, 5_000):
        tell(journal, *(letter(number) for number in range(start, start + 5_000)))
        give_up(journal)
    pages: list[int] = []
    original = letters_module.DeadLetters.next_asked

    def spied(self: letters_module.DeadLetters, destination: str, most: int) -> list[tuple[int, Sent]]:
        found = original(self, destination, most)
        pages.append(len(found))
        return found

    monkeypatch.setattr(letters_module.DeadLetters, "next_asked", spied)
    assert journal.letters.ask_replay("hook", None) == count
    while journal.letters.of("hook").replaying:
        assert again(journal, 2_000)[1] == 0
        for batch in iter(lambda: journal.waiting("hook"), []):
            for one in batch:
                journal.delivered("hook", one, len(one.records), now=0)
    assert pages == [2_000] * 25
    assert journal.letters.of("hook").replayed == journal.health("hook").delivered == count

    monkeypatch.setattr(letters_module, "PAGE_BYTES_MAX", 100)
    tell(journal, *(letter(number) for number in range(10)))
    give_up(journal)
    journal.letters.ask_replay("hook", None)
    size = len(letter(1).body)
    assert again(journal) == (100 // size, 0)


def test_asking_is_durable_and_meets_the_letters_of_its_time(tmp_path: Path, journal: Journal) -> None:
    tell(journal, letter(1), letter(2))
    give_up(journal)
    journal.letters.ask_replay("hook", None)
    tell(journal, letter(3))
    give_up(journal)
    with Journal.open(tmp_path / "activations.sqlite") as other:
        assert again(other) == (2, 0)
    assert again(journal) == (0, 0)
    assert [one.idempotency_key for one in journal.letters.listed("hook")] == ["k3"]
    assert not journal.letters.of("hook").replaying


def test_some_are_sent_again_by_id_and_wrong_ids_change_nothing(journal: Journal) -> None:
    tell(journal, letter(1), letter(2), letter(3))
    give_up(journal)
    ids = [one.id for one in journal.letters.listed("hook")]
    for wrong in ([ids[0], 99], [-1], [1 << 80]):
        with pytest.raises(NotFound, match="nothing was changed"):
            journal.letters.ask_replay("hook", wrong)
        with pytest.raises(NotFound, match="nothing was changed"):
            journal.letters.discard("hook", wrong)
    with pytest.raises(Invalid, match="at most 10000"):
        journal.letters.ask_replay("hook", range(10_001))
    assert journal.letters.ask_replay("hook", [ids[2], ids[0], ids[2]]) == 2
    assert again(journal) == (2, 0)
    assert journal.letters.discard("hook", [ids[1]]) == 1
    assert journal.letters.of("hook").held == 0


def test_an_exit_is_sent_again_only_while_nothing_holds(journal: Journal) -> None:
    tell(journal, letter(1, None, "left"))
    give_up(journal)
    tell(journal, letter(2, None, "left too"), letter(2, "true", "back"))
    give_up(journal)
    journal.letters.ask_replay("hook", None)
    assert again(journal) == (2, 1)
    sent = [one.key for batch in journal.waiting("hook") for one in batch.records]
    assert sorted(sent) == ["back", "left"]


# ---- the rest ------------------------------------------------------------------------------------


def test_forgetting_a_destination_takes_all_of_it_and_leaves_others(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "FORGET_ROWS", 2)
    journal.begin("other", Place("1", b"", b""))
    journal.learn("other", ["vip"])
    journal.sweep("hook", ["a", "b", "c"], again=False, now=0)
    tell(journal, *(letter(number) for number in range(5)))
    give_up(journal)
    journal.bury("other", Batch(0, 0, [letter(1)]), 1, "refused", 422, now=0, most=1)
    journal.forget("hook")
    assert journal.names() == {"other"}
    assert journal.health("hook").letters == letters_module.Letters()
    assert journal.letters.listed("hook") == journal.sweeps("hook") == []
    assert journal.known("hook") == set()
    assert journal.announced("hook", [subject(1)]) == {}
    assert journal.letters.of("other").held == 1
    assert journal.known("other") == {"vip"}


def test_a_resync_that_waits_is_owed_still_when_another_sweep_comes(journal: Journal) -> None:
    journal.sweep("hook", ["vip"], again=True, now=0)
    journal.sweep("hook", ["vip", "score"], again=False, now=1)
    assert {sweep.definition: sweep.again for sweep in journal.sweeps("hook")} == {
        "vip": True,
        "score": False,
    }
    # Once it is over, nothing is owed.
    journal.put(
        "hook",
        Turn(Place("1", b"", b""), through={sweep.id: None for sweep in journal.sweeps("hook")}),
        seen=0,
    )
    journal.sweep("hook", ["vip"], again=False, now=2)
    assert [sweep.again for sweep in journal.sweeps("hook")] == [False]
