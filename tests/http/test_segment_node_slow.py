"""The unmodified `@segment/analytics-node` against the server users run."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from served import READ_TOKEN, WRITE_KEY, Served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SENDER = Path(__file__).parent / "segment_node"
INSTALL_SECONDS_MAX = 180
SEND_SECONDS_MAX = 60


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the SDK installed, at the version `package.json` names."""
    folder = tmp_path_factory.mktemp("segment-node") / "sender"
    shutil.copytree(SENDER, folder)
    subprocess.run(
        ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"],
        cwd=folder,
        check=True,
        timeout=INSTALL_SECONDS_MAX,
    )
    return folder


def test_all_six_calls_become_rows(served: Served, sender: Path) -> None:
    subprocess.run(
        ["node", "send.js", served.url, WRITE_KEY], cwd=sender, check=True, timeout=SEND_SECONDS_MAX
    )
    served.committed()
    rows = served.sql("FROM events WHERE library = '@segment/analytics-node'")
    # By name: batches are sent side by side, so only within one is the order that of the calls.
    called = {row["event"] or row["type"]: row for row in rows}
    names = ("identify", "Order Completed", "page", "screen", "group", "alias", "Signed In")
    assert (len(rows), called.keys()) == (len(names), set(names))
    identify, track, page, screen, group, alias, signed_in = (called[name] for name in names)
    assert {row["type"] for row in (track, signed_in)} == {"track"}
    assert all(row["user_id"] == "node-user" for row in rows if row is not signed_in)
    assert (signed_in["user_id"], signed_in["anonymous_id"]) == (None, "node-anonymous")
    assert identify["anonymous_id"] == "node-anonymous"
    assert _read(identify["traits"]) == {"email": "Node@Example.org", "age": 36}
    assert _read(identify["context"])["locale"] == "de-AT"
    assert _read(track["properties"]) == {"revenue": 42.5, "half": "\ufffd"}
    assert track["original_timestamp"] == "2020-01-02T03:04:05.678000Z"
    assert page["name"] == "Pricing"
    properties = _read(page["properties"])
    assert (properties["category"], properties["url"]) == ("Docs", "https://shop.example.org")
    assert (screen["name"], _read(screen["properties"])) == ("Basket", {"items": 3})
    assert (group["group_id"], _read(group["traits"])) == ("node-org", {"name": "Acme", "employees": 120})
    assert alias["previous_id"] == "node-before"
    assert len({row["message_id"] for row in rows}) == len(rows)

    profile = "/v1/spaces/default/collections/users/profiles/anonymous_id:node-anonymous"
    assert served.get(f"{profile}/traits", READ_TOKEN).json["traits"] == {
        "email": "Node@Example.org",
        "age": 36,
    }


def _read(value: str) -> Any:
    return json.loads(value)
