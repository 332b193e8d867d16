"""`profilelake test`: what is said of cases, on both engines, and the code it ends with."""

from pathlib import Path

import pytest

from command_line import run, told

GOOD = """
traits:
  orders: {query: event('Order Completed').count()}
  first: {query: "event('Order Completed').first(property('category'))"}
tests:
  - about: two orders
    at: 2026-02-15T00:00:00Z
    given:
      events:
        - {at: 2026-02-01T00:00:00Z, event: Order Completed, properties: {category: books}}
        - {at: 2026-02-02T00:00:00Z, event: Order Completed}
    expect: {orders: 2, first: books}
  - at: 2026-02-15T00:00:00Z
    expect: {orders: 0, first: null}
"""
ACCOUNTS = """
audiences:
  busy: {target: accounts, query: "ANY ( event('Login').count() >= 2 ) AND trait('plan') = 'pro'"}
tests:
  - about: somebody of them logs in twice
    at: 2026-01-02T00:00:00Z
    given:
      traits: {plan: pro}
      users:
        - events: [{at: 2026-01-01T00:00:00Z, event: Login}, {at: 2026-01-01T01:00:00Z, event: Login}]
        - traits: {plan: pro}
    expect: {busy: true}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "definitions").mkdir()
    (tmp_path / "definitions" / "traits.yaml").write_text(GOOD)
    (tmp_path / "definitions" / "audiences.yaml").write_text(ACCOUNTS)
    return tmp_path


@pytest.mark.parametrize("engine", ["reference", "columns"])
def test_good_cases(folder: Path, engine: str) -> None:
    ran = run("test", "--engine", engine, "--dir", folder)
    assert (ran.code, ran.out, ran.err) == (0, b"3 of 3 cases good\n", "")


@pytest.mark.parametrize("engine", ["reference", "columns"])
def test_a_case_that_fails(folder: Path, engine: str, tmp_path: Path) -> None:
    (folder / "definitions" / "traits.yaml").write_text(GOOD.replace("orders: 2", "orders: 3"))
    report = tmp_path / "report.xml"
    ran = run("test", "--engine", engine, "--junit", report, "--dir", folder)
    assert ran.code == 1
    assert ran.out.decode() == (
        "definitions/traits.yaml line 6: two orders\n"
        "  line 12: orders at 2026-02-15T00:00:00Z: expected 3, got 2\n"
        "2 of 3 cases good\n"
    )
    assert b'tests="3" failures="1"' in report.read_bytes()
    shown = run("test", "--dir", folder, "--json")
    assert (shown.code, shown.json["cases"], shown.json["failed"]) == (1, 3, 1)
    assert shown.json["failures"][0]["missed"][0]["got"] == 2


def test_what_no_case_asks_about_is_told(folder: Path) -> None:
    (folder / "definitions" / "audiences.yaml").write_text("audiences: {a: {query: trait('x').exists()}}\n")
    ran = run("test", "--dir", folder)
    assert (ran.code, ran.err) == (0, "no case says what to expect of a\n")


def test_wrong_usage(folder: Path) -> None:
    told(run("test", "--engine", "steam", "--dir", folder), 2, "it is one of reference, columns")
    told(run("test", "--dir", folder / "no"), 2, "no such directory; name one with --dir")
    told(run("validate", "--print-schema", "cats", "--dir", folder), 2, "it is one of traits, audiences")
