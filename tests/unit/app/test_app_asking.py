"""What the process that reads the lake answers, as those who ask it understand it."""

import httpx
import pytest

from profilelake.app.asking import _told
from profilelake.errors import Invalid, Unavailable


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [
        (500, "Internal Server Error", Unavailable),
        (503, "", Unavailable),
        (429, '{"code": "too_many"}', Unavailable),
        (400, '{"code": "syntax_error", "detail": "near FROM"}', Invalid),
        (400, "<html>", Invalid),
    ],
)
def test_a_refusal_is_told_whatever_it_is_written_in(status: int, text: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="running a query"):
        _told(httpx.Response(status, text=text))


def test_a_job_is_read_with_and_without_an_envelope() -> None:
    assert _told(httpx.Response(202, json={"data": {"id": "1"}})) == {"id": "1"}
    assert _told(httpx.Response(200, json={"id": "1"})) == {"id": "1"}
