"""The laws of an engine, on this machine."""

import gc
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_laws import Unit, breaks, check_spread, doubled, refuses
from profilelake.engines import embedded
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.errors import Invalid

PARTS = 7
ROWS = st.lists(st.tuples(st.integers(0, 99), st.integers(0, PARTS - 1)), max_size=40).map(tuple)
PIECES = st.tuples(st.sampled_from(["people", "numbers"]), ROWS)
UNITS = st.lists(st.lists(PIECES, max_size=4).map(tuple), max_size=5)


@settings(max_examples=25)
@given(units=UNITS, tasks=st.integers(1, 3), batch_rows=st.sampled_from([1, 3, 16, embedded.BATCH_ROWS]))
def test_every_row_comes_to_its_part_once(units: list[Unit], tasks: int, batch_rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(embedded, "BATCH_ROWS", batch_rows)
        check_spread(EmbeddedEngine(Path(folder), tasks), units, PARTS)
        assert list(Path(folder).iterdir()) == []


def test_answers_are_in_the_order_of_the_units(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path)
    assert engine.each("double", [3, 1, 2], doubled) == [b"6", b"2", b"4"]
    assert engine.each("double", [], doubled) == []


def test_what_the_work_raises_is_raised(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path)
    with pytest.raises(Invalid, match="unit 1 says"):
        engine.each("refuse", [1, 2], refuses)
    with pytest.raises(KeyError):
        engine.each("break", [1], breaks)


def test_the_search_for_cycles_is_as_it_was_after_a_step(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path)
    before = gc.get_freeze_count()
    engine.each("double", [1], doubled)
    with pytest.raises(Invalid):
        engine.each("refuse", [1], refuses)
    assert gc.get_freeze_count() == before
