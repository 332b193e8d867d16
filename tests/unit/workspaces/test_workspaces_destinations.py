"""Destinations in the control database."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from profilelake.errors import Conflict, Invalid, NotFound
from profilelake.semantics.destinations import Destination, IdSync
from profilelake.workspaces import destinations as module
from profilelake.workspaces.control import Control
from profilelake.workspaces.destinations import Destinations

HOOK = Destination(
    "hook",
    "webhook",
    "https://example.org/",
    secret="s",
    ids=(IdSync("email", "all", "mail"),),
    headers=(("X-A", "b"),),
    integrations=(("All", False),),
    consent=("ads",),
)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Destinations]:
    with Control.open(tmp_path / "control.sqlite", random.Random(1).randbytes) as control:
        control.ensure_default(now=1)
        yield control.destinations("default")


def test_what_is_put_is_read_back(kept: Destinations) -> None:
    held = kept.put(HOOK, now=5)
    assert (held.destination, held.paused, held.created_at, held.changed_at) == (HOOK, None, 5, 5)
    assert kept.put(HOOK, now=6) == held
    changed = kept.put(replace(HOOK, batch=7), now=8)
    assert (changed.destination.batch, changed.created_at, changed.changed_at) == (7, 5, 8)
    assert [one.destination.name for one in kept.all()] == ["hook"]


def test_pausing_and_resuming(kept: Destinations) -> None:
    kept.put(HOOK, now=5)
    assert kept.pause("hook", "because " * 200, now=6).active is False
    assert len(kept.one("hook").paused or "") == module.REASON_CHARACTERS_MAX
    assert kept.put(replace(HOOK, batch=7), now=7).paused is not None
    assert kept.resume("hook", now=8).active is True
    assert kept.put(replace(HOOK, enabled=False), now=9).active is False


def test_a_file_owns_what_it_says(kept: Destinations) -> None:
    kept.put(HOOK, now=1)
    filed = replace(HOOK, name="filed", managed_by="destinations.yaml")
    told = kept.replace_file("destinations.yaml", [filed], now=2)
    assert told == {"added": ["filed"], "changed": [], "removed": [], "unchanged": []}
    for one in (replace(filed, managed_by=""), replace(HOOK, managed_by="destinations.yaml")):
        with pytest.raises(Conflict):
            kept.put(one, now=3)
    other = replace(filed, name="other")
    told = kept.replace_file("destinations.yaml", [replace(filed, batch=2), other], now=4)
    assert told == {"added": ["other"], "changed": ["filed"], "removed": [], "unchanged": []}
    told = kept.replace_file("destinations.yaml", [other], now=5)
    assert told == {"added": [], "changed": [], "removed": ["filed"], "unchanged": ["other"]}
    assert [one.destination.name for one in kept.all()] == ["hook", "other"]


def test_a_file_with_one_bad_destination_changes_nothing(kept: Destinations) -> None:
    good = replace(HOOK, managed_by="destinations.yaml")
    with pytest.raises(Invalid):
        kept.replace_file("destinations.yaml", [good, replace(good, name="bad", url="x")], now=1)
    assert kept.all() == []


def test_there_is_a_most(kept: Destinations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DESTINATIONS_MAX", 1)
    kept.put(HOOK, now=1)
    with pytest.raises(Conflict, match="the most"):
        kept.put(replace(HOOK, name="more"), now=1)


def test_one_that_is_not_there(kept: Destinations) -> None:
    for act in (kept.one, kept.remove):
        with pytest.raises(NotFound):
            act("nobody")
