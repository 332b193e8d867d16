"""What is said of a decision: in force, and whether profiles still wait to be resolved again."""

from pathlib import Path

import pytest

from identity_deciding import Decisions
from profilelake.commands._applying import WORKSPACE, Pipeline
from profilelake.commands._deciding import still_waiting
from profilelake.identity.background import Pending, store
from profilelake.settings import Layout


def pending(*, whole: bool = False) -> Pending:
    return Pending("users", [] if whole else [b"set"], whole, "unlink", bytes(28))


@pytest.mark.parametrize(
    ("waiting", "said"),
    [
        ([], ""),
        ([pending()], "; 1 component waits to be resolved again in the background"),
        ([pending(), pending()], "; 2 components wait to be resolved again in the background"),
        ([pending(), pending(whole=True)], "; all profiles wait to be resolved again in the background"),
    ],
)
def test_what_waits_in_the_background_is_said(tmp_path: Path, waiting: list[Pending], said: str) -> None:
    desk = Decisions(tmp_path).desk
    with desk.state.write() as tx:
        store(tx, WORKSPACE, waiting)
    pipeline = Pipeline(Layout(tmp_path))
    pipeline.state = lambda: desk.state  # type: ignore[method-assign]
    assert still_waiting(pipeline) == said
    desk.close()
