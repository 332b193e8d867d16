"""What operators see of events as they come, and do about those that failed, through the server they run."""

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from command_line import run, told
from served import ADMIN_TOKEN, READ_TOKEN, Served
from watching import lines, tailing

pytestmark = pytest.mark.timeout(240)

SECONDS_MAX = 60


def event(number: int, prefix: str, **more: Any) -> dict[str, Any]:
    return {"type": "track", "event": "E", "userId": f"{prefix}u", "messageId": f"{prefix}{number}"} | more


def test_tail_shows_what_became_of_events(served: Served) -> None:
    with tailing(served.directory, "--user-id", "tail-u", "--limit", "3") as process:
        batch = [event(1, "tail-"), event(1, "tail-"), event(2, "tail-", event=None), event(3, "other-")]
        assert served.post("/v1/batch", {"batch": batch}).status == 200
        found = lines(process)
    assert [(row["status"], row.get("reason"), row["message_id"]) for row in found] == [
        ("accepted", None, "tail-1"),
        ("duplicate", None, "tail-1"),
        ("failed", "missing_event_name", "tail-2"),
    ]
    assert all(row["type"] == "track" and row["source_id"] == "default" for row in found)


def test_tail_loses_nothing_while_it_is_stopped(served: Served) -> None:
    with tailing(served.directory, "--user-id", "stopped-u", "--limit", "60") as process:
        served.post("/v1/batch", {"batch": [event(n, "stopped-") for n in range(20)]})
        process.send_signal(signal.SIGSTOP)
        for start in (20, 40):
            served.post("/v1/batch", {"batch": [event(n, "stopped-") for n in range(start, start + 20)]})
            served.committed()
        process.send_signal(signal.SIGCONT)
        assert [row["message_id"] for row in lines(process)] == [f"stopped-{n}" for n in range(60)]


def test_tail_over_http_is_complete_between_two_cursors(served: Served) -> None:
    cursor = served.get("/api/tail").json["cursor"]
    sent = [f"http-{n}" for n in range(50)]

    def send() -> None:
        for start in range(0, 50, 5):
            served.post("/v1/batch", {"batch": [event(n, "http-") for n in range(start, start + 5)]})

    sender = threading.Thread(target=send)
    sender.start()
    found: list[str] = []
    give_up_at = time.monotonic() + SECONDS_MAX
    while len(found) < 50 and time.monotonic() < give_up_at:
        answer = served.get(f"/api/tail?cursor={cursor}&wait=5&limit=7&user_id=http-u").json
        assert answer["missed"] == 0
        found += [row["message_id"] for row in answer["events"]]
        cursor = answer["cursor"]
    sender.join()
    assert found == sent
    again = served.request(
        "GET",
        "/api/tail?cursor=0.0&limit=1",
        authorization=f"Bearer {ADMIN_TOKEN}",
        headers={"Accept": "application/x-ndjson"},
    )
    last = json.loads(again.body.splitlines()[-1])
    assert last["status"] == "end"
    assert last["cursor"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("cursor=x", "not one of ours"),
        ("wait=61", "give a number from 0 to 60"),
        ("wait=nan", "give a number"),
        ("limit=0", "give a number from 1 to 5000"),
        ("status=gone", "it is one of accepted, duplicate, failed"),
    ],
)
def test_wrong_questions_to_tail_are_refused(served: Served, query: str, message: str) -> None:
    answer = served.get(f"/api/tail?{query}")
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")
    assert message in answer.json["detail"]


def test_tail_over_http_needs_an_admin_token(served: Served) -> None:
    assert served.get("/api/tail", READ_TOKEN).status == 403
    assert served.request("GET", "/api/tail").status == 401


def test_failed_events_are_listed_put_right_and_sent_again(served: Served, tmp_path: Path) -> None:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 2))
    batch = [event(n, "fix-", event=None, n=json.loads("1e2")) for n in range(3)] + [7]
    served.post("/v1/batch", {"context": {"app": "shop"}, "batch": batch})
    served.committed()
    chosen = ["--dir", str(served.directory), "--since", since]
    listed = run("failed", "list", *chosen, "--json").json
    listed = [row for row in listed if row["message_id"] is None or row["message_id"].startswith("fix-")]
    assert [row["reason"] for row in listed] == ["not_an_object"] + ["missing_event_name"] * 3
    assert all(row["what_to_do"] and row["replays"] == [] for row in listed)

    one = listed[-1]["position"]
    dry = run("failed", "replay", one, "--dir", served.directory, "--dry-run", "--json").json
    assert (dry["found"], dry["sent"], dry["would_be_accepted"]) == (1, 0, 0)
    assert dry["would_fail"][0]["reason"] == "missing_event_name"
    sent = run("failed", "replay", one, "--dir", served.directory, "--set", 'event="One"', "--json").json
    assert (sent["sent"], sent["would_fail"]) == (1, [])
    again = run("failed", "replay", one, "--dir", served.directory, "--set", 'event="One"', "--json").json
    assert (again["sent"], again["replayed_before"]) == (0, 1)

    edited = tmp_path / "edited.json"
    for row in listed:
        row["event"] = (
            {"type": "page", "userId": "fix-u"} if row["event"] is None else row["event"] | {"event": "All"}
        )
    edited.write_text("\n".join(json.dumps(row) for row in listed))
    sent = run("failed", "replay", "--dir", served.directory, "--edit", edited, "--json").json
    assert (sent["found"], sent["sent"], sent["replayed_before"]) == (4, 3, 1)
    served.committed()
    rows = served.sql("SELECT message_id, event, context FROM events WHERE user_id = 'fix-u' ORDER BY ALL")
    assert [(row["event"], row["context"]) for row in rows if row["event"]] == [
        ("One", '{"app":"shop"}'),
        ("All", '{"app":"shop"}'),
        ("All", '{"app":"shop"}'),
    ]
    after = run("failed", "list", *chosen, "--json").json
    outcomes = {row["position"]: [replay["outcome"] for replay in row["replays"]] for row in after}
    assert [outcomes[row["position"]] for row in listed] == [["accepted"]] * 4

    summary = run("failed", "list", *chosen, "--summary", "--json").json
    assert {"missing_event_name", "not_an_object"} <= {row["reason"] for row in summary}
    paged = run("failed", "list", *chosen, "--limit", "1")
    assert "there are more: --cursor " in paged.err
    metrics = served.get("/metrics").body.decode()
    counted = [line for line in metrics.splitlines() if 'events_total{reason="missing_event_name"}' in line]
    assert len(counted) == 1
    assert float(counted[0].split()[-1]) >= 3


def test_what_cannot_be_done_is_told(served: Served, tmp_path: Path) -> None:
    here = ["--dir", str(served.directory)]
    told(run("failed", "replay", *here), 2, "say which")
    told(run("failed", "replay", *here, "ab"), 2, "it is 64 hex digits")
    told(run("failed", "replay", *here, "00" * 32), 3, "there is no failed event like that")
    told(run("failed", "replay", *here, "--all", "--set", "event=Order"), 2, "the value is no JSON")
    told(run("failed", "list", *here, "--reason", "bad"), 2, "it is one of undecodable_record")
    told(run("failed", "list", *here, "--since", "yesterday"), 2, "write a time as")
    told(run("failed", "replay", *here, "--edit", tmp_path / "none"), 5, "No such file")
    told(run("tail", *here, "--status", "lost"), 2, "it is one of accepted")
    told(run("tail", "--dir", tmp_path), 2, "not a profilelake data directory")
