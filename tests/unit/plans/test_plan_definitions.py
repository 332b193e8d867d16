"""Jobs that compute definitions over a lake: which of them are gone on with."""

from pathlib import Path

import pytest

from account_laws import ASKED
from condition_worlds import Person, World
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.plans import definitions
from world_lakes import WORKSPACE, open_lake, write


def test_what_a_program_with_other_steps_has_kept_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = open_lake(tmp_path)
    write(lake, World((), (Person((0,), {}, frozenset({"user_id"})),)))
    engine, asked = EmbeddedEngine(tmp_path / "engine"), definitions.Asked(ASKED, 0)
    first, _ = definitions.compute(engine, lake, WORKSPACE, asked)
    again, _ = definitions.compute(engine, lake, WORKSPACE, asked)
    assert again.id == first.id
    monkeypatch.setattr(definitions, "FORMAT", definitions.FORMAT + 1)
    other, _ = definitions.compute(engine, lake, WORKSPACE, asked)
    assert other.id != first.id
    lake.close()
