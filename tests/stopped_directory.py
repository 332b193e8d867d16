"""A data directory as the first start leaves it, without having started anything."""

from pathlib import Path

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
