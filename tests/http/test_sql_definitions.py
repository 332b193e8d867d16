"""SQL traits, linked tables, entities and explanations on the server users run: through the jail and back."""

import time
from pathlib import Path
from typing import Any

import pytest

from command_line import Ran, run, told
from served import ADMIN_TOKEN, Served, serving

pytestmark = pytest.mark.timeout(300)

PROFILE = "/v1/spaces/default/collections/users/profiles/user_id:u1"
SHOWN_SECONDS_MAX = 60
POLL_SECONDS = 0.1
FILES = {
    "traits.yaml": "traits:\n  tier: {sql: 'SELECT user_id, tier FROM ws_default_linked.tiers', id: user_id}\n",
    "entities.yaml": (
        "entities:\n  cart: {table_ref: carts, primary_key: id}\n"
        "profile:\n  relationships:\n"
        "    carts: {related_entity: cart, external_id: {type: user_id, join_key: owner}}\n"
    ),
    "audiences.yaml": (
        "audiences:\n  gold_carts:\n"
        "    query: trait('tier') = 'gold' AND entity('cart').where(property('total') > 500).count() >= 1\n"
    ),
}


def done(*arguments: object) -> Ran:
    ran = run(*map(str, arguments))
    assert ran.code == 0, told(ran)
    return ran


def shown(served: Served, names: set[str]) -> dict[str, Any]:
    """Wait until the profile shows exactly these traits."""
    give_up_at = time.monotonic() + SHOWN_SECONDS_MAX
    while True:
        traits: dict[str, Any] = served.get(f"{PROFILE}/traits").json["traits"]
        if traits.keys() == names:
            return traits
        assert time.monotonic() < give_up_at, traits
        time.sleep(POLL_SECONDS)


def previewed(served: Served, query: str) -> tuple[int, int]:
    """Return how many accounts a preview counts, and how many it looked at."""
    path = "/api/spaces/default/audiences/previews"
    body = {"definition": {"query": query}, "audienceType": "ACCOUNTS"}
    token, said = f"Bearer {ADMIN_TOKEN}", {"content-type": "application/json"}
    started = served.request("POST", path, body, authorization=token, headers=said)
    preview = started.json["data"]["audiencePreview"]
    give_up_at = time.monotonic() + SHOWN_SECONDS_MAX
    while preview["status"] == "RUNNING":
        assert time.monotonic() < give_up_at
        time.sleep(POLL_SECONDS)
        preview = served.get(f"{path}/{preview['id']}").json["data"]["audiencePreview"]
    assert preview["status"] == "COMPLETED", preview
    return preview["size"]["count"], preview["size"]["sampled"]


def test_what_sql_and_linked_tables_say_makes_a_member_and_is_explained(tmp_path: Path) -> None:
    for name, text in (("tiers", "user_id,tier\nu1,gold\n"), ("carts", "id,owner,total\n1,u1,900\n2,u1,5\n")):
        (tmp_path / f"{name}.csv").write_text(text)
    with serving(tmp_path / "data") as served:
        for user in ("u1", "u2"):
            assert served.post("/v1/identify", {"userId": user}).status == 200
            assert served.post("/v1/group", {"userId": user, "groupId": "g1"}).status == 200
        served.committed()
        for name in ("tiers", "carts"):
            done("lake", "link", name, tmp_path / f"{name}.csv", "--dir", served.directory)
        folder = served.directory / "definitions"
        folder.mkdir(exist_ok=True)
        for name, text in FILES.items():
            (folder / name).write_text(text)
        done("apply", "--yes", "--dir", served.directory)
        assert shown(served, {"tier", "gold_carts"}) == {"tier": "gold", "gold_carts": True}
        why = served.get(f"{PROFILE}/explain/gold_carts").json
        assert (why["value"], why["announced"]["value"]) == (True, "true")
        assert [part["holds"] for part in why["explanation"]["parts"]] == [True, True]
        # Over the lake the same queries run, in the same jail, for a computation and for previews.
        found = done("compute", "--dir", served.directory, "--json").json
        assert found["values"] == {"tier": 1, "gold_carts": 1}
        of_users = ("preview", "--query", "entity('cart').count() >= 2", "--json", "--dir", served.directory)
        size = done("audience", *of_users).json["size"]
        assert (size["count"], size["sampled"], size["profiles"]) == (1, 2, 2)
        assert previewed(served, "ANY( entity('cart').count() >= 2 )") == (1, 1)
        # The row is gone from the table: so is the value, and with it the membership.
        (tmp_path / "tiers.csv").write_text("user_id,tier\nu2,gold\n")
        done("lake", "link", "tiers", tmp_path / "tiers.csv", "--dir", served.directory)
        done("trait", "run", "tier", "--dir", served.directory)
        assert shown(served, set()) == {}
        assert served.get(f"{PROFILE}/explain/gold_carts").json["value"] is False
        assert served.get(f"{PROFILE}/explain/nothing").status == 404
