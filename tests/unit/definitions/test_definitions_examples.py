"""The example files on the pages are good, and their cases hold, when they are written where the pages say."""

import re
from pathlib import Path

import pytest

from command_line import run

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("page", ["README.md", "docs/definitions.md"])
def test_files_on_a_page_are_good(page: str, tmp_path: Path) -> None:
    files = re.findall(r"```yaml\n# (definitions/\S+)\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert {name for name, _ in files} >= {"definitions/audiences.yaml", "definitions/traits.yaml"}
    (tmp_path / "definitions").mkdir()
    for name, text in files:
        (tmp_path / name).write_text(text)
    checked = run("validate", "--dir", tmp_path, "--json")
    assert (checked.code, checked.json["unknown"]) == (0, []), checked
    tried = run("test", "--dir", tmp_path, "--engine", "columns", "--json")
    assert (tried.code, tried.json["failed"], tried.json["failures"]) == (0, 0, []), tried
    assert tried.json["cases"]
