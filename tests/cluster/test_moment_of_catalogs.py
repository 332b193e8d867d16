"""Tables of one moment, of catalogs on real servers, while another process commits."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from lake_places import Placed, placed

from moment_laws import tables_are_of_one_moment


@pytest.fixture(params=["postgresql-files", "rest-s3"])
def somewhere(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Placed]:
    """A place whose catalog is a server."""
    with placed(request.param, tmp_path, request, monkeypatch) as found:
        yield found


def test_tables_are_of_one_moment(somewhere: Placed) -> None:
    reading, writing = somewhere.open(), somewhere.open()
    try:
        tables_are_of_one_moment(reading, writing, somewhere.workspace, 10)
    finally:
        reading.close()
        writing.close()
