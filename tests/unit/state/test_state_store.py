import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from profilelake.errors import Conflict, Corrupt, NotFound
from profilelake.state import store
from profilelake.state.records import (
    ActivityRecord,
    IdentRecord,
    ProfileRecord,
    SetRecord,
    TraitRecord,
    encode,
)
from profilelake.state.store import Db, State

W = "default"


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State.open(tmp_path / "state", writable=True)
    opened.ensure([W, "other"])
    yield opened
    opened.close()


def test_each_record_comes_back_as_it_was_stored(state: State) -> None:
    ident = IdentRecord(0, "email", "ana@example.org", "src", "m1", 7, b"p" * 32, key(1))
    seen = SetRecord(0, key(1) + key(2), key(1), key(1), key(1), b"p" * 32, "m1", "src")
    active = ActivityRecord(3, b"q" * 32, "m2", "src")
    trait = TraitRecord('{"a":[1.50,null]}', 5, b"p" * 32, "src", "m1")
    profile = ProfileRecord(0, b"p" * 32, [(key(1), "email")], [key(1)])
    with state.write() as tx:
        tx.put(W, Db.IDENT, key(1), encode(ident))
        tx.put(W, Db.SET, key(1), encode(seen))
        tx.put(W, Db.PROFILE, key(1), encode(profile))
        tx.put(W, Db.TRAITS, key(1), encode({"": trait, "näme": trait}))
        tx.put(W, Db.ACTIVITY, key(1), encode(active))
    with state.read(W) as tx:
        assert tx.ident(W, key(1)) == ident
        assert tx.idents(W, [key(1), key(2), key(1)]) == {key(1): ident}
        assert tx.set(W, key(1)) == seen
        assert tx.sets(W, [key(2), key(1)]) == {key(1): seen}
        assert tx.profile(W, key(1)) == profile
        assert tx.profiles(W, [key(1)]) == {key(1): profile}
        assert tx.set_traits(W, [key(1), key(3)]) == {key(1): {"": trait, "näme": trait}}
        assert tx.activity(W, [key(1), key(3)]) == {key(1): active}
        assert (tx.ident(W, key(9)), tx.set(W, key(9)), tx.profile(W, key(9))) == (None, None, None)


def test_a_transaction_that_raises_changes_nothing(state: State) -> None:
    def cut_short() -> None:
        with state.write() as tx:
            tx.put(W, Db.IDENT, key(1), b"x")
            tx.put_meta(W, "progress", [1])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        cut_short()
    with state.read(W) as tx:
        assert tx.get(W, Db.IDENT, key(1)) is None
        assert tx.meta(W, "progress") is None


def test_a_reader_keeps_the_view_it_began_with(state: State) -> None:
    with state.write() as tx:
        tx.put(W, Db.IDENT, key(1), b"old")
    with state.read(W) as before:
        with state.write() as tx:
            tx.put(W, Db.IDENT, key(1), b"new")
        assert before.get(W, Db.IDENT, key(1)) == b"old"
    with state.read(W) as after:
        assert after.get(W, Db.IDENT, key(1)) == b"new"


def test_workspaces_do_not_see_each_other(state: State) -> None:
    with state.write() as tx:
        tx.put(W, Db.IDENT, key(1), b"mine")
    with state.read("other") as tx:
        assert tx.get("other", Db.IDENT, key(1)) is None
    with pytest.raises(NotFound), state.read("never made"):
        pass


def test_items_come_in_key_order_from_where_they_are_asked(state: State) -> None:
    with state.write() as tx:
        tx.put_many(W, Db.OUTBOX, [(key(n), b"%d" % n) for n in (5, 1, 9, 3)])
        assert tx.count(W, Db.OUTBOX) == 4
    with state.read(W) as tx:
        assert [value for _, value in tx.items(W, Db.OUTBOX)] == [b"1", b"3", b"5", b"9"]
        assert [value for _, value in tx.items(W, Db.OUTBOX, key(4))] == [b"5", b"9"]
        assert list(tx.items(W, Db.OUTBOX, key(10))) == []
        assert list(tx.items(W, Db.SEEN)) == []


def test_what_is_walked_over_may_be_deleted_on_the_way(state: State) -> None:
    with state.write() as tx:
        tx.put_many(W, Db.DIRTY, [(key(n), bytes(200)) for n in range(1000)])
    with state.write() as tx:
        walked = 0
        for found, _ in tx.items(W, Db.DIRTY):
            walked += 1
            if int.from_bytes(found, "big") % 3:
                tx.delete(W, Db.DIRTY, found)
        assert walked == 1000
    with state.read(W) as tx:
        assert [int.from_bytes(found, "big") for found, _ in tx.items(W, Db.DIRTY)] == list(range(0, 1000, 3))


def test_clear_leaves_an_empty_database_and_no_other_one(state: State) -> None:
    with state.write() as tx:
        tx.put(W, Db.IDENT, key(1), b"x")
        tx.put(W, Db.SET, key(1), b"x")
        tx.clear(W, Db.IDENT)
    with state.read(W) as tx:
        assert (tx.count(W, Db.IDENT), tx.count(W, Db.SET)) == (0, 1)


def test_links_hold_each_pair_once(state: State) -> None:
    with state.write() as tx:
        tx.put_links(W, [(key(1), key(8)), (key(1), key(7))])
        tx.put_links(W, [(key(1), key(8)), (key(2), key(8))])
    with state.write() as tx:
        assert tx.linked_sets(W, key(1)) == [key(7), key(8)]
        assert tx.linked_sets(W, key(3)) == []
        tx.delete(W, Db.LINKS, key(1), key(7))
        assert tx.linked_sets(W, key(1)) == [key(8)]
        assert tx.linked_sets(W, key(2)) == [key(8)]


def test_readers_need_a_state_that_was_made(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing there yet"):
        State.open(tmp_path / "none")
    State.open(tmp_path / "state", writable=True).close()
    reader = State.open(tmp_path / "state")
    with pytest.raises(NotFound), reader.read(W):
        pass
    with pytest.raises(Conflict):
        reader.ensure([W])
    reader.close()


def test_a_reading_process_sees_workspaces_that_are_made_later(tmp_path: Path, state: State) -> None:
    with state.write() as tx:
        tx.put_meta(W, "greeting", "hello")
    script = (
        "import sys; from pathlib import Path; from profilelake.errors import NotFound\n"
        "from profilelake.state.store import State\n"
        "state = State.open(Path(sys.argv[1]))\n"
        "try:\n"
        "    with state.read('later'): pass\n"
        "except NotFound: print('not yet', flush=True)\n"
        "sys.stdin.readline()\n"
        "with state.read('later') as tx: print(tx.meta('later', 'greeting'), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "state")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "not yet\n"
        state.ensure(["later"])
        with state.write() as tx:
            tx.put_meta("later", "greeting", "hi")
        said, _ = reader.communicate("\n", timeout=20)
    assert said == "b'\\xa2hi'\n"


def test_a_newer_format_and_foreign_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    State.open(tmp_path / "state", writable=True).close()
    monkeypatch.setattr(store, "FORMAT", 4)
    for writable in (True, False):
        with pytest.raises(Corrupt, match="format 3, this program reads 4"):
            State.open(tmp_path / "state", writable=writable)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(Corrupt):
        State.open(tmp_path / "foreign", writable=True)


def test_a_state_without_its_format_is_not_ready_for_readers(tmp_path: Path) -> None:
    lmdb.open(str(tmp_path / "state")).close()
    with pytest.raises(NotFound):
        State.open(tmp_path / "state")


def test_bytes_used_grows_with_what_is_stored(state: State) -> None:
    before = state.bytes_used()
    with state.write() as tx:
        tx.put(W, Db.META, b"large", bytes(1 << 20))
    assert state.bytes_used() >= before + (1 << 20)
