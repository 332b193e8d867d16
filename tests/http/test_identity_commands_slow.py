"""Deciding about identity on the command line, with the server up and down."""

from pathlib import Path

import pytest

from command_line import run, run_process, told
from identity_served import person, together
from profilelake.settings import Layout
from served import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DECISIONS = "/api/identity/decisions"


def test_the_command_line_decides_with_the_server_up_and_down(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with serving(directory) as served:
        user, device, message = person(served)
        pair = (f"user_id:{user}", f"anonymous_id:{device}")
        up = run_process("identity", "unlink", *pair, "--dir", directory, "--json", "--note", "why")
        assert up.code == 0, up.err
        assert up.json["changed"]
        assert not together(served, user, device)
        assert served.get(DECISIONS).json["data"]["decisions"][0]["by"] == "command line"
        other, _, _ = person(served)
    planned = run("identity", "plan", "relink", *pair, "--dir", directory, "--json")
    assert planned.json["effects"]["examples"][0]["change"] in ("merge", "move")
    down = run_process("identity", "relink", *pair, "--dir", directory)
    assert down.code == 0, down.err
    assert down.out.startswith(b"relink ")
    again = run_process("identity", "relink", *pair, "--dir", directory)
    assert again.out == b"unchanged: that is in force already\n"
    listed = run("identity", "decisions", "--dir", directory, "--json").json
    assert [(one["decision"], one["in_force"]) for one in listed] == [("relink", True), ("unlink", False)]
    told(run("identity", "plan", "unlink", pair[0], pair[0], "--dir", directory), 2, "name two identifiers")
    told(run("identity", "plan", "unlink", pair[0], f"user_id:{other}", "--dir", directory), 4, "--anyway")
    told(run("identity", "plan", "retract", "none", "--dir", directory), 3, "there is no such event")
    assert b"profiles" in run("identity", "plan", "retract", message, "--dir", directory).out
    verified = run_process("verify", "--dir", directory, "--json")
    assert (verified.code, verified.json) == (0, []), verified


def test_definitions_are_planned_and_applied(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with serving(directory) as served:
        user, device, _ = person(served)
        rules = Layout(directory).identity_rules
        rules.parent.mkdir(exist_ok=True)
        rules.write_text(f"types:\n  anonymous_id:\n    blocked: {{values: [{device}]}}\n")
        planned = run("plan", "--dir", directory, "--json").json
        assert planned["effects"]["identifiers_moved"] == 1
        told(run("apply", "--dir", directory), 4, "give --yes")
        applied = run_process("apply", "--yes", "--dir", directory, "--json")
        assert applied.code == 0, applied.err
        assert applied.json["decisions"][0]["rules_version"] == 2
        assert not together(served, user, device)
        shown = served.get("/api/identity/rules").json["data"]
        assert (shown["version"], device in shown["yaml"]) == (2, True)
        assert run_process("apply", "--yes", "--dir", directory).out.startswith(b"unchanged")
        rules.write_text("types: 7\n")
        told(run("plan", "--dir", directory), 2, "identity.yaml")
