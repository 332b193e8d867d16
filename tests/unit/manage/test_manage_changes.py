"""How management requests reach the control database."""

import asyncio
import os
from pathlib import Path

import pytest

from profilelake.errors import Unavailable
from profilelake.manage.changes import Changes
from profilelake.workspaces.control import CONTROL_FILE, DEFAULT_WORKSPACE, Control


def test_a_control_database_that_is_gone_is_not_made_anew_by_a_look(tmp_path: Path) -> None:
    path = tmp_path / CONTROL_FILE
    changes = Changes(path, DEFAULT_WORKSPACE, lambda: 1)
    with pytest.raises(Unavailable, match="put it back"):
        asyncio.run(changes.run(lambda control, _: control.sources()))
    assert not path.exists()
    with Control.open(path, os.urandom) as control:
        control.ensure_default(now=1)
    assert len(asyncio.run(changes.run(lambda control, _: control.sources()))) == 1
