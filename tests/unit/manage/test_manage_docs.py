"""The pages on management name every limit and every path that there is."""

from pathlib import Path

from profilelake.manage.limits_hit import LIMITS
from profilelake.manage.openapi import document

PAGE = (Path(__file__).parents[3] / "docs" / "management-api.md").read_text()


def test_every_limit_is_on_the_page() -> None:
    assert [limit.name for limit in LIMITS if f"`{limit.name}`" not in PAGE] == []


def test_every_path_is_on_the_page() -> None:
    paths = [path for path in document()["paths"] if path.startswith("/api/")]
    beginnings = {"/".join(path.split("/")[:3]) for path in paths}
    assert [path for path in sorted(beginnings) if path not in PAGE] == []
