"""Backfills of a `Desk` from its lake, as the thread of the lake process does them."""

import threading

from pipeline_driver import WORKSPACE, Desk
from profilelake.pipeline.backfilling import Backfilling


def backfilling(desk: Desk) -> Backfilling:
    """Return the loop of one desk; it never rests."""
    return Backfilling(
        state=desk.state,
        lake=desk.lake,
        workspaces=[WORKSPACE],
        directory=desk.directory / "backfill",
        ask_to_publish=lambda: None,
        stop=threading.Event(),
        share=1.0,
    )


def backfill(desk: Desk) -> bool:
    """Do a backfill from the snapshot there is, where that has all it needs; else publish first."""
    loop = backfilling(desk)
    if loop.look(WORKSPACE):
        return True
    desk.publisher.publish_facts()
    return loop.look(WORKSPACE)
