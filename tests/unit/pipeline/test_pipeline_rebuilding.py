"""How a rebuild beside the server is asked for, tried again, given up and finished."""

import os
import sys
from pathlib import Path

import msgspec
import pytest

from profilelake.app import offline, server
from profilelake.errors import Conflict, Unavailable
from profilelake.pipeline.rebuilding import TRIES_MAX, Rebuilding, ended, load, store
from profilelake.settings import Layout, Settings

LASTING = frozenset({4})
KILLED = -9


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "data")
    made.create()
    return made


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"id": "x", "stage": "later"}'])
def test_nonsense_asks_for_nothing(layout: Layout, text: str | None) -> None:
    if text is not None:
        layout.rebuild_request.write_text(text)
    assert load(layout.rebuild_request) is None
    assert server._rebuild_asked(Settings(layout.directory), layout) is None
    server._finish_rebuild(Settings(layout.directory), layout)


def test_a_killed_rebuild_is_tried_so_often(layout: Layout) -> None:
    path = layout.rebuild_request
    store(path, Rebuilding("x"))
    again = [ended(path, KILLED, LASTING) for _ in range(TRIES_MAX)]
    assert again == [True] * (TRIES_MAX - 1) + [False]
    known = load(path)
    assert known is not None
    assert (known.stage, known.tries, known.open) == ("failed", TRIES_MAX, False)
    assert "ended with -9" in known.error


def test_what_would_only_fail_again_is_not_tried_again(layout: Layout) -> None:
    path = layout.rebuild_request
    store(path, Rebuilding("x", stage="running", error="rebuilding: a part is missing"))
    assert not ended(path, 4, LASTING)
    known = load(path)
    assert known is not None
    assert (known.stage, known.error) == ("failed", "rebuilding: a part is missing")


def test_what_is_done_is_done(layout: Layout) -> None:
    path = layout.rebuild_request
    store(path, Rebuilding("x", stage="done", result={"profiles": 1}))
    assert not ended(path, 0, LASTING)
    known = load(path)
    assert known is not None
    assert known.result == {"profiles": 1}
    assert server._rebuild_asked(Settings(layout.directory), layout) is None


def test_who_writes_is_stopped_meanwhile(layout: Layout) -> None:
    store(layout.rebuild_request, Rebuilding("x"))
    task = server._rebuild_asked(Settings(layout.directory), layout)
    assert task is not None
    assert task.instead_of == {"pipeline", "lake"}
    assert list(task.arguments[:2]) == ["process", "rebuild"]
    assert task.ended(KILLED)


def test_a_start_that_cannot_finish_it_says_so(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    store(layout.rebuild_request, Rebuilding("x", stage="running", tries=TRIES_MAX - 1))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Unavailable, match="profilelake rebuild --dir"):
        server._finish_rebuild(Settings(layout.directory), layout)


def test_nobody_asked(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "die_with_parent", lambda _: None)
    monkeypatch.setattr(offline.logs, "configure", lambda _: None)
    with pytest.raises(Conflict, match="nobody asked for it"):
        offline.rebuild_process(Settings(layout.directory), parent=os.getpid())


def test_the_file_is_replaced_as_a_whole(layout: Layout) -> None:
    path = layout.rebuild_request
    for number in range(3):
        store(path, Rebuilding(str(number)))
        assert msgspec.json.decode(path.read_bytes())["id"] == str(number)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
