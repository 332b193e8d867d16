"""A data directory as the first start leaves it, without having started anything."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline_driver import WORKSPACE, Desk
from profilelake.ops.clock import wall
from profilelake.settings import Layout
from profilelake.workspaces.control import Control


def stopped_directory(directory: Path) -> Layout:
    """Make a data directory with its default workspace, source and keys."""
    layout = Layout(directory)
    layout.create()
    with Control.open(layout.control, lambda size: bytes(range(size))) as control:
        control.ensure_default(now=wall())
        control.bind_identifier_key(layout.secrets)
    return layout


@contextmanager
def desk(layout: Layout, kind: type[Desk] = Desk) -> Iterator[Desk]:
    """Open the pipeline on a directory, and close its state at the end."""
    opened = kind(layout.directory)
    opened.state.close()
    opened.setup = replace(
        opened.setup, recent_directory=layout.recent(WORKSPACE), dedup_directory=layout.dedup(WORKSPACE)
    )
    opened.open()
    try:
        yield opened
    finally:
        opened.state.close()
