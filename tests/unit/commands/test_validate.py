"""`profilelake validate`: what is said of good and bad definitions, and the code it ends with."""

from pathlib import Path

import pytest

from command_line import run, told
from stopped_directory import stopped_directory

GOOD = "types: {crm_id: {custom: true, limit: {values: 3, per: month}}}\n"
BAD = "types:\n  email: {limit: 0}\n  crm_id: {costum: true}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "definitions").mkdir()
    return tmp_path / "definitions" / "identity.yaml"


def test_good_definitions(file: Path) -> None:
    file.write_text(GOOD)
    ran = run("validate", "--dir", file.parents[1])
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.decode() == (
        f"{file}: good, 12 identifier types (1 with places of their own, 1 with a window), demotion minimal\n"
    )
    ran = run("validate", "--dir", file.parents[1], "--json")
    assert (ran.code, ran.json["valid"], ran.json["files"][0]["problems"]) == (0, True, [])


def test_bad_definitions_are_told_whole(file: Path) -> None:
    file.write_text(BAD)
    ran = run("validate", "--dir", file.parents[1])
    told(ran, 2, f"reading {file}: 2 errors; nothing was changed\n  line 2: types.email.limit = 0: give")
    assert "line 3: types.crm_id.costum: unknown key; did you mean custom?" in ran.err
    ran = run("validate", "--dir", file.parents[1], "--json")
    assert (ran.code, ran.err, ran.json["valid"]) == (2, "", False)
    problems = ran.json["files"][0]["problems"]
    assert [(one["line"], one["key"], one["value"]) for one in problems] == [
        (2, "types.email.limit", "0"),
        (3, "types.crm_id.costum", ""),
    ]


@pytest.mark.parametrize("command", ["plan", "apply --yes", "diff", "test"])
def test_a_file_that_nothing_reads_is_named_where_others_are_put_in_force(
    command: str, tmp_path: Path
) -> None:
    layout = stopped_directory(tmp_path / "data")
    layout.definitions.mkdir()
    stray = layout.definitions / "audience.yaml"
    stray.write_text("audiences: {}\n")
    ran = run(*command.split(), "--dir", layout.directory)
    assert ran.err.startswith(f"{stray}: nothing reads this file; known are identity.yaml, traits.yaml, ")


def test_a_file_that_nothing_reads_is_named(file: Path) -> None:
    stray = file.with_name("identitiy.yml")
    stray.write_text("x: [")
    ran = run("validate", "--dir", file.parents[1])
    assert ran.code == 0
    assert ran.err.startswith(f"{stray}: nothing reads this file; known are identity.yaml, traits.yaml, ")
    assert "Segment's default identity rules hold" in ran.out.decode()
    assert run("validate", "--dir", file.parents[1], "--json").json["unknown"] == [stray.name]


def test_no_directory(tmp_path: Path) -> None:
    told(run("validate", "--dir", tmp_path / "no"), 2, "no such directory; name one with --dir")
