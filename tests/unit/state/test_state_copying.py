"""Copies and replacements of the state."""

import threading
from pathlib import Path

import pytest

from profilelake.errors import NotFound
from profilelake.state import replacing
from profilelake.state.replacing import put_in_place
from profilelake.state.store import Db, State


def made(path: Path, value: bytes) -> State:
    state = State.open(path, writable=True)
    state.ensure(["w", "v"])
    with state.write() as tx:
        tx.put("w", Db.PROFILE, b"who", value)
        tx.put_links("w", [(b"i" * 16, bytes([n]) * 16) for n in range(5)])
        tx.put("v", Db.META, b"name", b"other")
    return state


def test_a_copy_is_of_the_moment_its_view_began(tmp_path: Path) -> None:
    state = made(tmp_path / "state", b"one")
    with state.read("w") as tx:
        assert tx.get("w", Db.PROFILE, b"who") == b"one"
        stop = threading.Event()

        def write() -> None:
            number = 0
            while not stop.is_set():
                with state.write() as other:
                    other.put("w", Db.PROFILE, b"who", b"later" * 500)
                    other.put("w", Db.SET, number.to_bytes(8, "big"), bytes(3000))
                number += 1

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for number in range(5):
                tx.copy(tmp_path / f"copy-{number}")
        finally:
            stop.set()
            thread.join()
    for number in range(5):
        copy = State.open(tmp_path / f"copy-{number}", writable=True)
        copy.ensure(["w", "v"])
        with copy.read("w") as tx:
            assert tx.get("w", Db.PROFILE, b"who") == b"one"
            assert tx.count("w", Db.SET) == 0
            assert tx.linked_sets("w", b"i" * 16) == [bytes([n]) * 16 for n in range(5)]
        with copy.read("v") as tx:
            assert tx.meta("v", "name") == b"other"
        with copy.write() as tx:
            tx.put_links("w", [(b"i" * 16, b"z" * 16)])
        copy.close()
    state.close()


@pytest.mark.parametrize("exchanging", [True, False])
def test_a_fresh_state_takes_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanging: bool
) -> None:
    if not exchanging:
        monkeypatch.setattr(replacing, "_exchange", lambda *_: False)
    place, fresh = tmp_path / "state", tmp_path / "state.new"
    for value in (b"one", b"two", b"three"):
        made(fresh, value).close()
        there: list[bool] = []
        put_in_place(fresh, place, lambda there=there: there.append(place.exists()))
        assert there == ([] if value == b"one" else [exchanging])
        with State.open(place).read("w") as tx:
            assert tx.get("w", Db.PROFILE, b"who") == value
        assert not fresh.exists()
    with State.open(tmp_path / "state.old").read("w") as tx:
        assert tx.get("w", Db.PROFILE, b"who") == b"two"
    with pytest.raises(NotFound):
        State.open(tmp_path / "state.new")
