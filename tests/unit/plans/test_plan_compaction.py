"""Compaction of many tables at once is what compaction of each is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from command_line import run_process
from lake_examples import open_lake
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import Work
from profilelake.engines.jobs import known_jobs
from profilelake.errors import Conflict
from profilelake.lake.compaction import Compacted, Policy
from profilelake.lake.current import CurrentTable
from profilelake.lake.files import local_path
from profilelake.lake.table import LakeTable
from profilelake.plans import compaction
from profilelake.settings import Layout
from upkeep_lakes import digests, engine_in, filled

SMALL = Policy(file_bytes=6_000, step_bytes=20_000)


def test_a_round_changes_no_row_and_leaves_nothing_to_do(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    held, people = filled(lake, 9, 40)
    before, files = digests(lake, "w"), len(held.files())
    told: list[Compacted] = []
    groups = compaction.compact(
        engine_in(tmp_path), lake.storage, [held], policy=SMALL, report=lambda _, done: told.append(done)
    )
    assert groups == len(told) > 1
    assert len(held.files()) < files
    assert held.groups(None, SMALL) == []
    assert compaction.compact(engine_in(tmp_path), lake.storage, [held], policy=SMALL) == 0
    assert compaction.merge(engine_in(tmp_path), lake.storage, [people]) == 1
    assert compaction.merge(engine_in(tmp_path), lake.storage, [people]) == 0
    after = digests(lake, "w")
    assert {name: after[name] for name in ("visits", "members")} == {
        name: before[name] for name in ("visits", "members")
    }
    assert list((tmp_path / "warehouse" / "_jobs").rglob("*.msgpack")) == []


def test_a_merge_by_buckets_is_the_merge_of_the_table(tmp_path: Path) -> None:
    one, other = open_lake(tmp_path / "one"), open_lake(tmp_path / "other")
    _, mine = filled(one, 7, 30)
    _, yours = filled(other, 7, 30)
    assert compaction.merge(engine_in(tmp_path), one.storage, [mine]) == 1
    yours.merge()
    assert mine.base.scan().sort_by("member_id") == yours.base.scan().sort_by("member_id")
    named = {
        "profilelake.merged-through",
        "profilelake.merged-files-through",
        "profilelake.merged-previously",
    }
    assert {name: mine.base.properties()[name] for name in named} == {
        name: yours.base.properties()[name] for name in named
    }


def test_a_driver_that_died_goes_on_with_what_its_tasks_had_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = open_lake(tmp_path)
    held, _ = filled(lake, 6, 40)
    before = digests(lake, "w")["visits"]

    def died(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(LakeTable, "commit_gathered", died)
        with pytest.raises(KeyboardInterrupt):
            compaction.compact(engine_in(tmp_path), lake.storage, [held], policy=SMALL)
    monkeypatch.setattr(compaction, "gather", died)  # Nothing is to be gathered again.
    files = {f.location for f in held.files()}
    with monkeypatch.context() as once:
        once.setattr(compaction, "ROUND_GROUPS_PER_TASK", 4)
        rounds = iter([True, False])
        compaction.compact(
            engine_in(tmp_path), lake.storage, [held], policy=SMALL, go_on=lambda: next(rounds)
        )
    assert not files & {f.location for f in held.files()}
    assert digests(lake, "w")["visits"] == before


def test_what_was_swept_before_it_was_committed_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = open_lake(tmp_path)
    held, _ = filled(lake, 6, 40)
    before, there = digests(lake, "w")["visits"], {f.location for f in held.files()}

    def died(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(LakeTable, "commit_gathered", died)
        with pytest.raises(KeyboardInterrupt):
            compaction.compact(engine_in(tmp_path), lake.storage, [held])
    for path in (tmp_path / "warehouse" / "ws_w" / "visits").rglob("*.parquet"):
        if path not in {local_path(location) for location in there}:
            path.unlink()
    compaction.compact(engine_in(tmp_path), lake.storage, [held])
    assert digests(lake, "w")["visits"] == before


def test_a_merge_that_died_takes_no_rows_away_that_came_to_the_base_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = open_lake(tmp_path)
    _, people = filled(lake, 7, 30)

    def died(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(CurrentTable, "commit_merged", died)
        with pytest.raises(KeyboardInterrupt):
            compaction.merge(engine_in(tmp_path), lake.storage, [people])
    # As a repair does: the log says nothing of it.
    added = people.base.scan().slice(0, 1)
    row = added.to_pylist()[0] | {"member_id": "new"}
    files = people.base.files_elsewhere().write(pa.Table.from_pylist([row], added.schema))
    assert people.base.add_files(files, "repair")
    before = digests(lake, "w")["members"]
    assert compaction.merge(engine_in(tmp_path), lake.storage, [people]) == 1
    assert digests(lake, "w")["members"] == before


class _Halted(EmbeddedEngine):
    """Halts the driver for so long, while its tasks run, that another one takes the job over."""

    jobs: Path

    def each(self, name: str, units: Sequence[Any], work: Work[Any]) -> list[bytes]:
        answers = super().each(name, units, work)
        self._taken_over()
        return answers

    def spread(self, *of: Any) -> dict[int, bytes]:
        answers = super().spread(*of)
        self._taken_over()
        return answers

    def _taken_over(self) -> None:
        (claim,) = self.jobs.glob("*/claim")
        claim.unlink()


def test_who_lost_the_job_commits_nothing(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    held, people = filled(lake, 9, 40)
    before = lake.pointers()
    engine = _Halted(tmp_path / "engine")
    engine.jobs = tmp_path / "warehouse" / "_jobs"
    with pytest.raises(Conflict, match="commits nothing more"):
        compaction.compact(engine, lake.storage, [held], policy=SMALL)
    with pytest.raises(Conflict, match="commits nothing more"):
        compaction.merge(engine, lake.storage, [people])
    assert lake.pointers() == before
    assert compaction.compact(engine_in(tmp_path), lake.storage, [held], policy=SMALL) > 0
    assert compaction.merge(engine_in(tmp_path), lake.storage, [people]) == 1


def test_two_at_once_do_not_do_the_same(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    held, _ = filled(lake, 9, 40)
    refused: list[str] = []

    class Beside(EmbeddedEngine):
        def each(self, name: str, units: Sequence[Any], work: Work[Any]) -> list[bytes]:
            for job in known_jobs(lake.storage):
                ran = run_process("engine", "jobs", "remove", job.id, "--dir", directory)
                refused.append(ran.err)
            return super().each(name, units, work)

    directory = tmp_path / "data"
    Layout(directory).create()
    (directory / "profilelake.toml").write_text(f'[lake]\nwarehouse = "{lake.warehouse}"\n')
    assert compaction.compact(Beside(tmp_path / "engine"), lake.storage, [held], policy=SMALL) > 0
    assert refused
    assert all("it is being run by process" in one for one in refused)
    assert known_jobs(lake.storage) == []
