"""A rebuild by plan killed at every place where it can be."""

from pathlib import Path

import pytest

from rebuild_kills import killed_and_called_again

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = (
    "checked",
    "facts",
    "values",
    "contract",
    "resolve",
    "sets",
    "idents",
    "profiles",
    "shapes",
    "reach",
    "ids",
    "recent",
    "found",
)


@pytest.mark.parametrize("when", ["ran", "done"])
def test_killed_after_any_step(when: str, tmp_path: Path) -> None:
    killed_and_called_again(tmp_path, *(f"job.{step}.{when}" for step in STEPS))


def test_killed_while_committing(tmp_path: Path) -> None:
    places = (
        "rebuild.replaced",
        "rebuild.appended",
        "rebuild.recent",
        "rebuild.loaded",
        "rebuild.moved",
        "lake.staged",
        "lake.swapped",
    )
    killed_and_called_again(tmp_path, *places)
