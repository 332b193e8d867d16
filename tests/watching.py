"""`profilelake tail` in a process of its own, and what it has shown."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from command_line import COMMAND, clean_environment

SECONDS_MAX = 60


@contextmanager
def tailing(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run `profilelake tail --json`; give it once it shows everything."""
    process = subprocess.Popen(
        [*COMMAND, "tail", "--dir", str(directory), "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=clean_environment(),
        text=True,
    )
    try:
        assert process.stderr is not None
        assert "showing events from here on" in process.stderr.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def lines(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, err = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]
