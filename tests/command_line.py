"""The command line: in this process where that is enough, in one of its own where it is not."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from profilelake import cli

COMMAND = [sys.executable, "-m", "profilelake"]
SECONDS_MAX = 60


@dataclass(frozen=True)
class Ran:
    """What a command said and how it ended."""

    code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*arguments: str | Path) -> Ran:
    """Run a command in this process, as the program does, exit code included."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    code: object = 0
    with (
        patch.object(sys, "argv", ["profilelake", *map(str, arguments)]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    return Ran(int(str(code or 0)), out.buffer.getvalue(), err.getvalue())


def run_process(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> Ran:
    """Run a command in a process of its own."""
    ended = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        env=clean_environment() | dict(environment or {}),
        timeout=SECONDS_MAX,
        check=False,
    )
    return Ran(ended.returncode, ended.stdout, ended.stderr.decode())


def told(ran: Ran, code: int, message: str) -> None:
    """Check that a command failed in words: one message on stderr, no traceback, nothing on stdout."""
    assert ran.code == code, ran
    assert ran.err.startswith("profilelake: ")
    assert message in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == b""


def clean_environment() -> dict[str, str]:
    """Return the environment without settings of whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PROFILELAKE_")}
