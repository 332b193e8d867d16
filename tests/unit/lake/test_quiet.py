"""No connection of ours draws a bar of progress: DuckDB would put it into stdout, a pipe or not, after two seconds."""

import ast
from pathlib import Path

import profilelake

QUIETED = ("enable_progress_bar", "attach(connection", "show(connection")
"""What says so: the setting itself, or attaching the tables of a workspace, which has it."""
_WITHIN = 30


def test_every_connection_is_told_to_draw_none() -> None:
    loud = []
    for module in Path(profilelake.__file__).parent.rglob("*.py"):
        source = module.read_text()
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "duckdb.connect":
                near = "\n".join(lines[node.lineno - 1 : node.lineno + _WITHIN])
                near = near.replace("storage.attach(connection", "")
                if not any(quieted in near for quieted in QUIETED):
                    loud.append(f"{module.name}:{node.lineno}")
    assert loud == []
