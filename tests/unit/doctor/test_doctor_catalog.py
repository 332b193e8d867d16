"""Where what is sent to a catalog passes a network, so that it should be encrypted."""

import pytest

from profilelake.doctor.catalog import stays_here
from profilelake.lake.place import LakePlace


@pytest.mark.parametrize(
    ("catalog", "environment", "stays"),
    [
        ("https://127.0.0.1:8181/c", {}, True),
        ("https://h/c", {}, False),
        ("postgresql://localhost/d", {}, True),
        ("postgresql:///d", {}, True),
        ("postgresql:///d?host=h&sslmode=disable", {}, False),
        ("postgresql:///d", {"PGHOST": "h"}, False),
    ],
)
def test_what_stays_on_this_machine(catalog: str, environment: dict[str, str], stays: bool) -> None:
    assert stays_here(LakePlace.at(catalog, "s3://b/l"), environment) is stays
