import pytest

from profilelake.errors import Corrupt
from profilelake.lake.progress import Progress


def test_properties_are_read_back() -> None:
    progress = Progress("0007", 12, {"aa": (400, 3), "bb": (0, 0)}, {"duplicates": 2})
    assert Progress.from_properties(progress.properties()) == progress


def test_a_foreign_snapshot_has_no_progress() -> None:
    assert Progress.from_properties({"operation": "append"}) is None


def test_progress_that_makes_no_sense_stops_the_reader() -> None:
    properties = Progress("e", 1).properties() | {"profilelake.vector": '{"aa": 3}'}
    with pytest.raises(Corrupt, match="reading the progress"):
        Progress.from_properties(properties)


@pytest.mark.parametrize(
    ("held", "asked", "covered"),
    [(("e1", 5), ("e1", 5), True), (("e1", 5), ("e1", 6), False), (("e1", 5), ("e2", 1), False)],
)
def test_covers(held: tuple[str, int], asked: tuple[str, int], covered: bool) -> None:
    assert Progress(*held).covers(Progress(*asked)) is covered
