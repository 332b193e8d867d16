"""SQL on a system without a jail: refused with the way out, unless the operator decided otherwise."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from starlette.requests import Request

from profilelake.app.query_process import sql_answers
from profilelake.query import jail
from profilelake.settings import Layout, Settings

POST = {"type": "http", "method": "POST", "path": "/api/sql", "headers": [], "query_string": b""}


def test_without_a_jail_nothing_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jail, "unavailable", lambda: "the kernel is too old")
    closed = sql_answers(Settings.load(tmp_path, {}), Layout(tmp_path))
    answer = asyncio.run(closed.ask(Request(dict(POST))))
    told = msgspec.json.decode(bytes(answer.body))
    assert (answer.status_code, told["code"]) == (503, "sql_unavailable")
    assert "the kernel is too old" in told["detail"]
    assert "--unsafe-sql" in told["detail"]


def test_an_operator_can_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jail, "unavailable", lambda: "the kernel is too old")
    settings = Settings.load(tmp_path, {"PROFILELAKE_SQL_JAIL": "off"})
    answers = sql_answers(settings, Layout(tmp_path))
    answers.queries.nursery.stop()
    assert answers.closed is None
    assert not answers.queries.jailed
