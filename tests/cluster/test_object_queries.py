"""SQL over HTTP on a lake that lies on an object store: a jailed worker reads copies, and says what fails."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lake_examples import MEMBERS, VISITS, Clock, members, upto, visits
from profilelake.errors import Unavailable
from profilelake.lake import object_reading
from profilelake.lake.catalog import Lake
from profilelake.lake.local_copies import LocalCopies
from profilelake.query.inputs import Inputs
from profilelake.query.nursery import Nursery
from profilelake.settings import StorageOptions
from s3_faults import FaultyProxy, faulty, never

sys.path.append(str(Path(__file__).parent.parent / "unit" / "query"))

from test_query_inputs import asked, rows


@pytest.fixture
def proxy(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    with faulty(s3.endpoint) as running:
        yield running


@pytest.fixture
def inputs(proxy: FaultyProxy, s3: Any, tmp_path: Path) -> Iterator[Inputs]:
    options = StorageOptions(
        endpoint=proxy.endpoint, plain_http="allowed", retries_max=0, request_seconds=5, retry_seconds=0
    )
    place = f"s3://{s3.bucket}{tmp_path}"
    lake = Lake.open(f"sqlite:///{tmp_path}/catalog.db", place, storage=options, clock=Clock())
    table = lake.table("w", VISITS)
    for number in range(5):
        table.append(visits(number * 20, 20), upto(number + 1))
    lake.current_table("w", MEMBERS).base.append(members({"m1": 5, "m2": 6}), upto(1))
    (tmp_path / "spool").mkdir()
    yield Inputs(lake, "w", tmp_path / "spool", LocalCopies(lake.storage, tmp_path / "copies", 1 << 20))
    lake.close()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    started = Nursery()
    started.start()
    yield started
    started.stop()


def test_a_query_reads_copies_and_takes_them_again(
    inputs: Inputs, nursery: Nursery, proxy: FaultyProxy
) -> None:
    query = asked("SELECT count(*) AS n, max(visit_id) AS e FROM visits")
    assert rows(inputs, nursery, query) == [{"n": 100, "e": "v99"}]
    proxy.rule = lambda asked: "broken" if ".parquet" in asked.path else ""
    assert rows(inputs, nursery, query) == [{"n": 100, "e": "v99"}]
    assert rows(inputs, nursery, asked("SELECT sum(amount) AS s FROM visits", masked=False)) == [
        {"s": "1000"}
    ]
    with pytest.raises(Unavailable, match="500 InternalError; it is busy or broken"):
        rows(inputs, nursery, asked("SELECT points FROM members"))
    proxy.rule = never
    assert len(rows(inputs, nursery, asked("SELECT points FROM members"))) == 2


def test_personal_columns_are_left_out_of_what_is_copied(
    inputs: Inputs, nursery: Nursery, proxy: FaultyProxy
) -> None:
    query = asked("SELECT count(*) AS n, sum(amount) AS s, count(email) AS e FROM visits", masked=True)
    assert rows(inputs, nursery, query) == [{"n": 100, "s": "1000", "e": 0}]
    assert not (inputs.spool.parent / "copies").exists()
    object_reading.forget()
    proxy.rule = lambda asked: "denied" if ".parquet" in asked.path else ""
    with pytest.raises(Unavailable, match="the credentials do not allow it"):
        rows(inputs, nursery, query)
