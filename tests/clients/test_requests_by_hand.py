"""Acceptance, as far as it can be said without an SDK: bodies, fields, times, pixels and preflights."""

import base64
import gzip
import json
from typing import Any

import pytest

from served import READ_TOKEN, WRITE_KEY, Served, basic

PROFILES = "/v1/spaces/default/collections/users/profiles"
BATCH_EVENTS = 2_500
SDK_BATCH_BYTES = 626_526
"""The largest batch an SDK was seen to send: 20 events of 31 KB."""
HOUR = 3_600_000_000


def rows(served: Served, prefix: str, columns: str = "*") -> list[dict[str, Any]]:
    """Return the stored events whose message ids begin with `prefix`, by id."""
    served.committed()
    return served.sql(
        f"FROM events SELECT message_id, {columns} WHERE starts_with(message_id, '{prefix}') ORDER BY message_id"
    )


def track(id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "track", "messageId": id, "userId": f"{id}-user", "event": "Signed In"} | fields


class TestBodies:
    @pytest.mark.parametrize(
        "kind", ["application/json", "text/plain", "application/x-www-form-urlencoded", None]
    )
    def test_gzip_of_any_content_type(self, served: Served, kind: str | None) -> None:
        id = f"hand-gzip-{str(kind).replace('/', '-')}"
        headers = {"Content-Encoding": "gzip"} | ({"Content-Type": kind} if kind else {})
        body = gzip.compress(json.dumps({"batch": [track(id)]}).encode())
        assert served.post("/v1/batch", body, **headers).json == {"success": True}
        assert len(rows(served, id)) == 1

    def test_the_largest_batches(self, served: Served) -> None:
        many = [track(f"hand-many-{number:04}") for number in range(BATCH_EVENTS)]
        assert served.post("/v1/batch", {"batch": many}).status == 200
        large = [track(f"hand-large-{number:02}", properties={"text": ""}) for number in range(20)]
        room, rest = divmod(SDK_BATCH_BYTES - len(json.dumps({"batch": large})), len(large))
        for number, event in enumerate(large):
            event["properties"]["text"] = "x" * (room + (number < rest))
        body = json.dumps({"batch": large}).encode()
        assert len(body) == SDK_BATCH_BYTES
        assert served.post("/v1/batch", body).status == 200
        assert len(rows(served, "hand-many-")) == BATCH_EVENTS
        lengths = "length(properties->>'text') AS length"
        assert sum(row["length"] for row in rows(served, "hand-large-", lengths)) == room * 20 + rest

    def test_an_event_too_large_harms_no_other(self, served: Served) -> None:
        batch = [
            track("hand-40kb-a"),
            track("hand-40kb-b", properties={"text": "x" * 40_000}),
            track("hand-40kb-c"),
        ]
        assert served.post("/v1/batch", {"batch": batch}).json == {"success": True}
        assert [row["message_id"] for row in rows(served, "hand-40kb")] == ["hand-40kb-a", "hand-40kb-c"]
        dead = served.sql(
            "SELECT reason, decode(raw) AS raw FROM failed_events WHERE message_id = 'hand-40kb-b'"
        )
        assert [(row["reason"], json.loads(row["raw"])) for row in dead] == [("event_too_large", batch[1])]

    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "byte-order-mark"])
    def test_what_is_no_json_by_the_letter(self, served: Served, mark: bytes) -> None:
        id = f"hand-odd-{len(mark)}"
        odd = b'{"nan":NaN,"infinite":Infinity,"half":"\\ud83d","huge":1e400}'
        body = b'{"messageId":"%b","userId":"odd","event":"E","properties":%b}' % (id.encode(), odd)
        assert served.post("/v1/track", mark + body).status == 200
        (row,) = rows(served, id, "properties")
        stored = json.loads(row["properties"])
        assert stored == {"nan": None, "infinite": None, "half": "\ufffd", "huge": None}


class TestTimes:
    COLUMNS = (
        "epoch_us(received_at) AS received, epoch_us(timestamp) AS happened, epoch_us(sent_at) AS sent, "
        "epoch_us(original_timestamp) AS original"
    )

    def test_a_clock_that_is_fast_is_set_right(self, served: Served) -> None:
        event = track("hand-skew", timestamp="2026-03-01T11:00:00.000Z")
        body = {"batch": [event], "sentAt": "2026-03-01T11:00:10.000Z"}
        assert served.post("/v1/batch", body).status == 200
        (row,) = rows(served, "hand-skew", self.COLUMNS)
        assert row["received"] - row["happened"] == 10_000_000
        assert row["sent"] - row["original"] == 10_000_000

    def test_history_stays_where_it_was(self, served: Served) -> None:
        old = "2020-02-03T04:05:06.789Z"
        assert served.post("/v1/track", track("hand-2020", timestamp=old)).status == 200
        (row,) = rows(served, "hand-2020", "timestamp, original_timestamp, sent_at")
        whole = old.replace("789Z", "789000Z")
        assert (row["timestamp"], row["original_timestamp"], row["sent_at"]) == (whole, whole, None)

    def test_without_any_time_it_happened_when_it_came(self, served: Served) -> None:
        assert served.post("/v1/track", track("hand-now")).status == 200
        (row,) = rows(served, "hand-now", self.COLUMNS)
        assert row["happened"] == row["received"]


class TestFields:
    def test_ids_that_are_none(self, served: Served) -> None:
        batch = [
            track("hand-id-null", userId=None, anonymousId="hand-a"),
            track("hand-id-empty", userId="", anonymousId="hand-a"),
            track("hand-id-number", userId=42, anonymousId=None),
        ]
        assert served.post("/v1/batch", {"batch": batch}).status == 200
        found = [
            (row["user_id"], row["anonymous_id"]) for row in rows(served, "hand-id-", "user_id, anonymous_id")
        ]
        assert found == [(None, "hand-a"), (None, "hand-a"), ("42", None)]

    def test_traits_in_the_context_of_an_identify(self, served: Served) -> None:
        identify = {
            "messageId": "hand-traits",
            "userId": "hand-traits",
            "context": {"traits": {"plan": "pro"}},
        }
        assert served.post("/v1/identify", identify).status == 200
        (row,) = rows(served, "hand-traits", "traits")
        assert json.loads(row["traits"]) == {"plan": "pro"}
        profile = served.get(f"{PROFILES}/user_id:hand-traits/traits", READ_TOKEN)
        assert profile.json["traits"] == {"plan": "pro"}

    def test_an_alias_to_itself_changes_nothing(self, served: Served) -> None:
        alias = {"messageId": "hand-alias", "userId": "hand-same", "previousId": "hand-same"}
        assert served.post("/v1/alias", alias).status == 200
        (row,) = rows(served, "hand-alias", "user_id, previous_id")
        assert (row["user_id"], row["previous_id"]) == ("hand-same", "hand-same")
        ids = served.get(f"{PROFILES}/user_id:hand-same/external_ids", READ_TOKEN).json["data"]
        assert [(item["type"], item["id"]) for item in ids] == [("user_id", "hand-same")]


class TestWhoSends:
    def test_only_the_header_has_the_key(self, served: Served) -> None:
        answer = served.request("POST", "/v1/track", track("hand-header"), authorization=basic(WRITE_KEY))
        assert answer.json == {"success": True}
        assert len(rows(served, "hand-header")) == 1

    def test_only_the_body_has_the_key(self, served: Served) -> None:
        """As analytics.js did until it was 1.70."""
        body = track("hand-body", writeKey=WRITE_KEY)
        assert served.request("POST", "/v1/t", body).json == {"success": True}
        (row,) = rows(served, "hand-body", "event, context, properties")
        assert WRITE_KEY not in json.dumps(row)


class TestPixels:
    def test_a_call_in_an_address(self, served: Served) -> None:
        data = base64.b64encode(json.dumps(track("hand-pixel-1") | {"writeKey": WRITE_KEY}).encode()).decode()
        fields = f"messageId=hand-pixel-2&userId=u&event=Opened&properties.subject=Hi&writeKey={WRITE_KEY}"
        for query in (f"data={data}", fields):
            self._is_the_image(served.request("GET", f"/v1/pixel/track?{query}"))
        first, second = rows(served, "hand-pixel-", "event, properties")
        assert (first["event"], second["event"]) == ("Signed In", "Opened")
        assert json.loads(second["properties"]) == {"subject": "Hi"}

    @pytest.mark.parametrize("query", ["data=%%%", "data=aGFsZg", "", "event=E", "writeKey=unknown&event=E"])
    def test_nonsense_gets_the_image_too(self, served: Served, query: str) -> None:
        self._is_the_image(served.request("GET", f"/v1/pixel/track?{query}"))

    @staticmethod
    def _is_the_image(answer: Any) -> None:
        assert (answer.status, answer.headers["content-type"]) == (200, "image/gif")
        assert answer.body[:10] == b"GIF89a\x01\x00\x01\x00"


@pytest.mark.parametrize("path", ["/v1/t", "/v1/batch", "/v1/track", "/v1/m", "/sourceConfig/"])
def test_a_preflight_needs_no_key(served: Served, path: str) -> None:
    asked = {
        "Origin": "https://shop.example.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-retry-count,x-of-their-own",
    }
    answer = served.request("OPTIONS", path, headers=asked)
    assert 200 <= answer.status < 300
    said = answer.headers
    assert said["access-control-allow-origin"] == asked["Origin"]
    assert said["access-control-allow-headers"] == asked["Access-Control-Request-Headers"]
    assert "POST" in said["access-control-allow-methods"]
    assert int(said["access-control-max-age"]) > 0
