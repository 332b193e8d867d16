"""Every case of how names are spelled."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from profilelake.semantics.snake_case import column_name, snake_case

FILES = sorted((Path(__file__).parent / "snake_case").glob("*.yaml"))
CASES = [
    pytest.param(case, id=f"{path.stem}-{case['about'].replace(' ', '_')}")
    for path in FILES
    for case in yaml.safe_load(path.read_text())["cases"]
]


@pytest.mark.parametrize("case", CASES)
def test_case(case: dict[str, Any]) -> None:
    assert case.keys() == {"about", "names"} or case.keys() == {"about", "columns"}
    for name, spelled in case.get("names", {}).items():
        assert snake_case(name) == spelled, name
        assert snake_case(spelled) == spelled, "a spelled name is spelled as it is"
    for column in case.get("columns", ()):
        assert column_name(column["part"], column["path"]) == column["column"], column
