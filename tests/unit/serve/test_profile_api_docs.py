"""The pages on the Profile API name every resource, code and limit."""

import re
from pathlib import Path

from profilelake.serve import _events, _links, _listing, _resources, profile_api
from profilelake.workspaces.scopes import RESOURCES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "profile-api.md").read_text()
PAGES = "".join(path.read_text() for path in sorted((ROOT / "docs").glob("profile-*.md")))
SOURCES = (ROOT / "docs" / "sources.md").read_text()


def test_every_resource_has_its_row_with_its_limits() -> None:
    table = re.findall(r"^\| `(\w+)`[^|]*\|[^|]*\|([^|]*)\|[^|]*\|$", PAGE, re.MULTILINE)
    rows = {name: limits.strip() for name, limits in table}
    assert rows.keys() == profile_api._EXPANDED.keys()
    limits = {
        "traits": (_resources.TRAITS_DEFAULT, _resources.TRAITS_MAX),
        "external_ids": (_resources.EXTERNAL_IDS_DEFAULT, _resources.EXTERNAL_IDS_MAX),
        "events": (_events.EVENTS_DEFAULT, _events.EVENTS_MAX),
        "links": (_links.LINKS_DEFAULT, _links.LINKS_MAX),
    }
    assert {name: rows[name] for name in limits} == {
        name: f"{default}, {most}" for name, (default, most) in limits.items()
    }
    assert f"at most {_listing.LIST_MAX:,}; {_listing.LIST_EXPANDED_MAX} with" in PAGE
    assert f"{_listing.LOOKED_AT_MAX:,} profiles at most" in PAGE


def test_every_code_is_on_a_page() -> None:
    written = "".join(path.read_text() for path in (ROOT / "src/profilelake/serve").glob("*.py"))
    written += (ROOT / "src/profilelake/manage/external_ids.py").read_text()
    codes = set(re.findall(r'(?:Refused|_refused)\(\s*\d{3},\s*"(\w+)"', written))
    assert codes >= {"validation_error", "authentication_error", "eid_not_found"}
    assert [code for code in sorted(codes) if f"`{code}`" not in PAGES] == []


def test_every_resource_a_scope_may_name_is_on_the_page() -> None:
    assert [name for name in RESOURCES if f"`{name}`" not in SOURCES] == []
