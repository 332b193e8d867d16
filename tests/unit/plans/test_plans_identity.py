from pathlib import Path

import pyarrow as pa
import pytest

from fold_cases import KEY, SERVER, START, WEB, Case, Event, fact_tables
from planned_identity import FINEST, Rows, fact_files
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.jobs import Job
from profilelake.errors import Corrupt, Invalid
from profilelake.identity.facts import Standing
from profilelake.lake.storage import LocalStorage
from profilelake.plans.identity import Resolved, resolve
from profilelake.plans.sizes import Sizes
from profilelake.plans.values import valued
from profilelake.semantics.identifiers import Identifier, ident_id
from profilelake.semantics.identity import Sighting
from profilelake.semantics.rules import IdentityRules, segment_defaults


def _case(*sets: set[str], rules: IdentityRules | None = None, source_id: str = SERVER) -> Case:
    events = []
    for number, names in enumerate(sets):
        identifiers = frozenset(Identifier(*name.split(":")) for name in names)
        position = (START + number).to_bytes(8, "big") + bytes(24)
        events.append(Event(Sighting(identifiers, position, START + number), source_id, False, {}, None))
    return Case(events, [], rules or segment_defaults(), "user_wins")


class _Counting(EmbeddedEngine):
    """Counts what is asked of it."""

    asked = 0

    def each(self, *arguments: object, **named: object) -> list[bytes]:
        self.asked += 1
        return super().each(*arguments, **named)  # type: ignore[arg-type]

    def spread(self, *arguments: object, **named: object) -> dict[int, bytes]:
        self.asked += 1
        return super().spread(*arguments, **named)  # type: ignore[arg-type]


def _resolve(folder: Path, case: Case, sizes: Sizes | None = None, lost: int = 0) -> tuple[Rows, Resolved]:
    tables = fact_tables(case)
    tables["identifiers"] = tables["identifiers"].slice(lost)
    storage = LocalStorage(str(folder / "warehouse"))
    resolved = resolve(
        EmbeddedEngine(folder / "scratch"),
        Job(storage, "test", "one"),
        fact_files(folder, tables),
        Standing(case.rules),
        frozenset({WEB}),
        sizes=sizes or FINEST.sizes,
    )
    return Rows(storage, resolved), resolved


def test_a_component_too_large_for_a_task_is_refused_with_what_to_do(tmp_path: Path) -> None:
    chain = [{f"email:e{n}", f"anonymous_id:a{n // 2}"} for n in range(20)]
    chain += [{f"email:e{n}", f"anonymous_id:a{(n + 1) // 2}"} for n in range(20)]
    with pytest.raises(Invalid, match="sets hang together, more than the 4 of a task; lower degree_max"):
        _resolve(tmp_path, _case(*chain), Sizes(sets_per_part=2, sets_per_task_max=4))


def test_many_components_in_one_part_are_no_giant(tmp_path: Path) -> None:
    people = _case(*({f"user_id:u{n}"} for n in range(20)))
    rows, resolved = _resolve(tmp_path, people, Sizes(sets_per_part=2, sets_per_task_max=20))
    assert len(rows.table(resolved.founded)) == 20


def test_identifiers_without_a_value_are_left_out_and_counted(tmp_path: Path) -> None:
    case = _case({"user_id:u1"}, {"user_id:u1", "email:e1"}, {"email:e1"})
    rows, resolved = _resolve(tmp_path, case, lost=1)
    assert resolved.values_lost == 1
    assert {row["profile"] is None for row in rows.table(resolved.sets)} == {True, False}
    assert len(rows.table(resolved.owned)) == 1


def test_a_file_that_is_missing_is_damage(tmp_path: Path) -> None:
    case = _case({"user_id:u1"})
    files = fact_files(tmp_path, fact_tables(case))
    Path(files.tables["identifier_sets"].files[0].location).unlink()
    job = Job(LocalStorage(str(tmp_path / "warehouse")), "test", "one")
    with pytest.raises(Corrupt, match="restore the file from backup"):
        resolve(EmbeddedEngine(tmp_path / "scratch"), job, files, Standing(case.rules))


def test_an_empty_lake_has_nobody(tmp_path: Path) -> None:
    _, resolved = _resolve(tmp_path, _case())
    assert resolved.sets == resolved.owned == resolved.founded == resolved.values == []


def test_a_job_that_knows_its_steps_runs_none_again(tmp_path: Path) -> None:
    case = _case({"user_id:u1", "email:e1"}, {"email:e1"})
    storage, engine = LocalStorage(str(tmp_path / "warehouse")), _Counting(tmp_path / "scratch")
    files = fact_files(tmp_path, fact_tables(case))
    found = [resolve(engine, Job(storage, "test", 1), files, Standing(case.rules)) for _ in range(2)]
    asked = engine.asked
    assert found[0] == found[1]
    assert resolve(engine, Job(storage, "test", 1), files, Standing(case.rules)) == found[0]
    assert engine.asked == asked
    assert Rows(storage, found[0]).table(found[0].founded)


def test_rows_are_joined_with_their_values() -> None:
    ids = [ident_id(KEY, "users", Identifier("email", name)) for name in ("a", "b")]
    fixed = pa.array(ids, pa.binary(16))
    values = pa.table(
        {"ident_id": fixed, "collection": ["users"] * 2, "type": ["email"] * 2, "value": ["a", "b"]}
    )
    joined = valued(pa.table({"ident_id": fixed.take(pa.array([1, 0, 1]))}), values)
    assert joined.column("value").to_pylist() == ["b", "a", "b"]
