"""Definitions that came after events are worth what the reference says, with backfills from the lake itself."""

import pytest
from hypothesis import Phase, given, settings

from backfilling import backfill
from computed_laws import Step, live_says_what_the_reference_says, lives
from pipeline_driver import Desk
from profilelake.pipeline import backfilling


@given(lives())
@settings(max_examples=5, phases=[Phase.generate])
def test_backfills_from_the_lake_give_what_the_reference_says(steps: list[Step]) -> None:
    restart = Desk.restart

    def published_first(desk: Desk) -> None:
        # So that later backfills find a snapshot that is behind, but not too far.
        desk.publisher.publish_facts()
        restart(desk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Desk, "backfill", backfill)
        patch.setattr(Desk, "restart", published_first)
        patch.setattr(backfilling, "SLICE_ROWS", 3)
        live_says_what_the_reference_says(steps)
