"""The written plan says what its program computes."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_tables_of_the_page_are_those_of_the_program() -> None:
    program = [sys.executable, str(ROOT / "benchmarks" / "scale_plan.py")]
    printed = subprocess.run(program, check=True, capture_output=True, text=True, timeout=100).stdout
    page = (ROOT / "docs" / "scale.md").read_text()
    tables = re.findall(r"<!-- table: (.*?) -->\n(.*?)\n<!-- end -->", page, flags=re.DOTALL)
    assert [name for name, _ in tables]
    for name, text in tables:
        assert f"\n{name}\n\n{text}\n" in printed, (
            f"python benchmarks/scale_plan.py --write docs/scale.md ({name})"
        )
