"""What the option --engine of all commands refuses."""

from pathlib import Path

import pytest

from command_line import run, told

URL = "sc://host:443/;use_ssl=true;token=geheim"


@pytest.mark.parametrize(
    "command",
    [("rebuild",), ("engine", "check"), ("lake", "compact"), ("compute",)],
)
def test_a_token_does_not_go_on_a_command_line(command: tuple[str, ...], tmp_path: Path) -> None:
    ran = run(*command, "--dir", tmp_path, "--engine", URL)
    told(ran, 2, "into the variable PROFILELAKE_ENGINE_URL")
    assert "geheim" not in ran.err
