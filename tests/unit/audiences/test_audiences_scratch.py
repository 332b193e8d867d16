"""Folders of computations: what a process left that was killed goes, what another one uses stays."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from profilelake.audiences.reading import scratch

_CHILD = """
import sys
from pathlib import Path
from profilelake.audiences.reading import scratch
with scratch(Path(sys.argv[1])) as folder:
    (folder / "rows").write_bytes(b"x")
    print(folder.name, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_goes_and_what_is_in_use_stays(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        theirs = tmp_path / child.stdout.readline().strip()
        with scratch(tmp_path) as first, scratch(tmp_path) as second:
            assert {*tmp_path.iterdir()} == {theirs, first, second}
            assert (theirs / "rows").read_bytes() == b"x"
        assert [*tmp_path.iterdir()] == [theirs]
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    with scratch(tmp_path) as first:
        assert [*tmp_path.iterdir()] == [first]
    assert not list(tmp_path.iterdir())
