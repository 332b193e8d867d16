"""Log lines: JSON, and nothing of a person in them."""

import io
import json
import logging
import sys
from collections.abc import Iterator

import pyarrow as pa
import pytest

from profilelake.errors import Unavailable
from profilelake.ops import logs


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure("pipeline")
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def test_an_error_of_a_library_is_told_without_the_value_it_failed_on(
    written: io.StringIO,
) -> None:
    address = "ana@example.org"
    try:
        try:
            pa.array([address]).cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise Unavailable("reading a column: not now") from error
    except Unavailable:
        logging.getLogger("profilelake.test").exception("processing %d records failed", 3)
    told = json.loads(written.getvalue())
    assert told["message"] == "processing 3 records failed"
    assert told["process"] == "pipeline"
    assert address not in told["error"]
    assert "pyarrow.lib.ArrowInvalid" in told["error"]
    assert "test_ops_logs.py" in told["error"]
    assert told["error"].endswith("profilelake.errors.Unavailable: reading a column: not now")


def test_a_chain_of_errors_without_end_is_cut(written: io.StringIO) -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    logging.getLogger("profilelake.test").error("odd", exc_info=first)
    assert json.loads(written.getvalue())["error"].count("builtins.ValueError") == 10
