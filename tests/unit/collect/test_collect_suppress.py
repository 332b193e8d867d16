"""Events of suppressed people in bodies: where identifiers stand, and what is left of a body."""

import gzip
import json
from typing import Any

import pytest

from profilelake.collect import bodies, suppress
from profilelake.collect.limits import CollectLimits
from profilelake.collect.suppress import Suppression
from profilelake.definitions.identity import parse
from profilelake.eventlog import Entry, Flags, Kind
from profilelake.semantics.rules import Collection, IdentityRules, segment_defaults
from profilelake.workspaces.suppressions import hash_identifier

KEY = bytes(range(16))
RULES = segment_defaults(custom=("crm_id",))
LIMITS = CollectLimits()


class Ring:
    """A list as a collecting process has it."""

    def __init__(self, *names: str, collection: Collection = "users", rules: IdentityRules = RULES) -> None:
        parted = [name.partition(":") for name in names]
        self.listed = {
            hash_identifier(KEY, rules, collection, type, value).digest for type, _, value in parted
        }

    def digests(self, workspace: str) -> set[bytes]:
        return self.listed if workspace == "default" else set()


def taken(
    ring: Ring,
    body: bytes | object,
    kind: Kind = Kind.BATCH,
    *,
    packed: bool = False,
    workspace: str = "default",
) -> tuple[Entry, Entry, int]:
    """Return the entry of a body, the one that is stored, and how many events were taken out."""
    plain = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = gzip.compress(plain) if packed else plain
    checked = bodies.check(kind, sent, b"gzip" if packed else b"", LIMITS)
    entry = Entry(workspace, "shop", kind, checked.flags, checked.events, 1, "203.0.113.9", "now", sent)
    return entry, *Suppression(ring, lambda _: RULES, lambda _: KEY, LIMITS).withhold(entry)  # type: ignore[arg-type]


def hit(ring: Ring, event: Any, **root: Any) -> bool:
    """Tell whether an event of a batch is taken out, and its neighbour is not."""
    neighbour = {"type": "page", "userId": "neighbour"}
    _, stored, count = taken(ring, {"batch": [neighbour, event], **root})
    if count:
        batch = json.loads(stored.body)["batch"]
        assert batch[0] == neighbour
        assert batch[1] is None
    return bool(count)


IOS = {"type": "ios", "id": "d", "token": "t", "advertisingId": "ad", "adTrackingEnabled": True}


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("user_id:u", {"userId": "u"}),
        ("user_id:42", {"userId": 42}),
        ("anonymous_id:a", {"anonymousId": "a"}),
        ("email:ana@x", {"traits": {"email": " ANA@x"}}),
        ("email:ana@x", {"context": {"traits": {"email": "ana@X"}}}),
        ("email:ana@x", {"properties": {"email": "ana@x"}, "traits": []}),
        ("email:ana@x", {"traits": {"email": ""}, "properties": {"email": "ana@x"}}),
        ("ios.id:d", {"context": {"device": IOS}}),
        ("ios.idfa:ad", {"context": {"device": IOS}}),
        ("ios.push_token:t", {"context": {"device": IOS}}),
        ("ga_client_id:c", {"context": {"integrations": {"Google Analytics": {"clientId": "c"}}}}),
        ("crm_id:7", {"properties": {"crmId": "7"}}),
        ("crm_id:7", {"context": {"traits": {"crm_id": "7"}}}),
        ("user_id:old", {"userId": "new", "previousId": "old"}),
        ("anonymous_id:old", {"userId": "new", "previousId": "old"}),
        ("phone:1", {"context": {"externalIds": [{"id": 1, "type": "phone", "collection": "users", "encoding": "none"}]}}),
        # Refused events are kept as they were sent, so every place counts.
        ("user_id:u", {"type": "nonsense", "userId": "u"}),
        ("email:ana@x", {"properties": {"email": "ana@x"}, "traits": {"email": "other@x"}, "context": 7}),
        ("user_id:1.50", {"userId": 1.5}),
    ],
)  # fmt: skip
def test_an_identifier_is_found_where_the_reference_reads_it(name: str, event: dict[str, Any]) -> None:
    sent = {"type": "track", "event": "e", "anonymousId": "somebody", **event}
    text = json.dumps(sent).replace("1.5}", "1.50}").encode()
    assert taken(Ring(name), b'{"batch":[%b]}' % text)[2] == 1
    assert taken(Ring(name + "?"), b'{"batch":[%b]}' % text)[2] == 0


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("email:b@x", {"traits": {"email": "a@x"}, "properties": {"email": "b@x"}}),
        ("ios.idfa:ad", {"context": {"device": {**IOS, "adTrackingEnabled": False}}}),
        ("ios.id:d", {"context": {"device": {**IOS, "type": "tv"}}}),
        ("user_id:A", {"userId": "a"}),
        ("group_id:g", {"groupId": "g"}),
        ("phone:1", {"context": {"externalIds": [{"id": 1, "type": "phone", "collection": "users", "encoding": "md5"}]}}),
    ],
)  # fmt: skip
def test_what_the_reference_does_not_read_counts_for_nothing(name: str, event: dict[str, Any]) -> None:
    assert not hit(Ring(name), {"type": "track", "event": "e", "anonymousId": "somebody", **event})


def test_an_organisation_is_suppressed_in_its_own_collection() -> None:
    group = {"type": "group", "userId": "u", "groupId": "g"}
    assert hit(Ring("group_id:g", collection="accounts"), group)
    assert not hit(Ring("user_id:g", collection="accounts"), group)


def test_a_batch_hands_its_context_down_and_an_event_may_overrule_it() -> None:
    ring = Ring("email:ana@x")
    root = {"context": {"traits": {"email": "ana@x"}, "device": IOS, "library": {"name": "l"}}}
    page = {"type": "page", "userId": "u"}
    assert taken(ring, {"batch": [page], **root})[2] == 1
    assert taken(ring, {"batch": [{**page, "context": {"device": None}}], **root})[2] == 1
    for own in ({"traits": None}, {"traits": {"email": "other@x"}}, {"traits": {}}):
        assert taken(ring, {"batch": [{**page, "context": own}], **root})[2] == 0
    # Where one event is taken out, what the batch says of the suppressed person goes too.
    _, stored, count = taken(
        ring, {"batch": [page, {**page, "context": {"traits": {}}}], **root, "sentAt": "s"}
    )
    assert count == 1
    assert json.loads(stored.body) == {"sentAt": "s", "batch": [None, {**page, "context": {"traits": {}}}]}


def test_the_other_events_keep_their_bytes() -> None:
    body = (
        b'{"writeKey":"wk","about":"u","sentAt" : "s", "integrations":{ "All" : true },'
        b'"batch":[ {"type":"page", "userId" : "other", "n": 1.500} , {"type":"page","userId":"u"} ]}'
    )
    _, stored, count = taken(Ring("user_id:u"), body)
    assert count == 1
    assert stored.flags == Flags.SUPPRESSED
    assert stored.events == 2
    assert b'{"type":"page", "userId" : "other", "n": 1.500}' in stored.body
    assert set(json.loads(stored.body)) == {"sentAt", "integrations", "batch"}
    assert (stored.ip, stored.sent_at) == ("203.0.113.9", "now")


@pytest.mark.parametrize("packed", [False, True])
def test_a_single_message_becomes_null(packed: bool) -> None:
    _, stored, count = taken(Ring("user_id:u"), {"userId": "u"}, Kind.PAGE, packed=packed)
    assert count == 1
    assert (gzip.decompress(stored.body) if packed else stored.body) == b"null"
    assert bool(stored.flags & Flags.GZIP) == packed
    assert (stored.ip, stored.sent_at) == ("", "")


@pytest.mark.parametrize("packed", [False, True])
def test_a_body_without_a_hit_is_the_same_entry(packed: bool) -> None:
    entry, stored, count = taken(
        Ring("user_id:x"), {"batch": [{"type": "page", "userId": "u"}]}, packed=packed
    )
    assert count == 0
    assert stored is entry
    entry, stored, _ = taken(
        Ring("user_id:u"), {"batch": [{"type": "page", "userId": "u"}]}, packed=packed, workspace="another"
    )
    assert stored is entry


@pytest.mark.parametrize(
    "body",
    [
        b'{"batch":[{"type":"page","userId":"u","properties":{"x":NaN}},{"type":"page","userId":"v","y":NaN}]}',
        b'\xef\xbb\xbf{"batch":[{"type":"page","userId":"u"},{"type":"page","userId":"v","y":NaN}]}',
        b'{"batch":[{"type":"page","userId":"u","x":"\\ud83d"},{"type":"page","userId":"v","y":NaN}]}',
    ],
)
def test_bodies_that_only_the_tolerant_parser_takes(body: bytes) -> None:
    entry, stored, count = taken(Ring("user_id:u"), body)
    assert entry.flags & Flags.TOLERANT
    assert count == 1
    assert stored.flags == Flags.TOLERANT | Flags.SUPPRESSED
    assert stored.body == b'{"batch":[null,{"type":"page","userId":"v","y":NaN}]}'


def test_odd_neighbours_hide_nobody() -> None:
    ring = Ring("user_id:u")
    page = {"type": "page", "userId": "u"}
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    for odd in (7, "x", None, [], {"type": {}}, {"userId": {"a": 1}}, {"type": "page", "context": deep}):
        assert taken(ring, {"batch": [odd, page]})[2] == 1
    assert taken(ring, {"batch": [{**page, "properties": {"deep": deep}}]})[2] == 1
    for context in (7, True, [1], "x", {"traits": 1}):
        assert taken(ring, {"batch": [page], "context": context})[2] == 1


def test_what_takes_too_long_to_read_is_left_to_landing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppress, "SLOW_BYTES_MAX", 60)
    odd = {"type": "page", "userId": "u", "context": 7}
    _, stored, count = taken(Ring("user_id:u"), {"batch": [odd] * 3})
    assert count == 1
    assert json.loads(stored.body)["batch"] == [None, odd, odd]


CARDS = parse("types: {card: {paths: [traits.loyalty.card, context.device.serial], normaliser: lower}}")


@pytest.mark.parametrize(
    ("event", "gone"),
    [
        ({"type": "identify", "traits": {"loyalty": {"card": " C-1"}}}, True),
        ({"type": "identify", "traits": {"loyalty": {"card": "c-2"}}}, False),
        ({"type": "track", "event": "e", "context": {"device": {"serial": "C-1"}}}, True),
        # A place that comes later does not count where an earlier one names somebody else.
        ({"type": "identify", "traits": {"loyalty": {"card": "c-2"}}, "context": {"device": {"serial": "C-1"}}}, False),
        ({"type": "identify", "traits": {"loyalty": {"card": 1.5}}, "context": {"device": {"serial": "C-1"}}}, False),
        ({"type": "identify", "traits": {"loyalty": {"card": [1]}}, "context": {"device": {"serial": "C-1"}}}, True),
        ({"type": "nonsense", "traits": {"loyalty": {"card": "c-2"}}, "context": {"device": {"serial": "C-1"}}}, True),
    ],
)  # fmt: skip
def test_paths_are_read_as_the_reference_reads_them(event: dict[str, Any], gone: bool) -> None:
    ring = Ring("card:c-1", rules=CARDS)
    suppression = Suppression(ring, lambda _: CARDS, lambda _: KEY, LIMITS)  # type: ignore[arg-type]
    text = json.dumps({"anonymousId": "a", **event}).encode()
    for kind in {Kind.BATCH, Kind.BATCH if event["type"] == "nonsense" else Kind[event["type"].upper()]}:
        body = b'{"batch":[%b]}' % text if kind is Kind.BATCH else text
        entry = Entry("default", "shop", kind, Flags.NONE, 1, 1, "", "", body)
        assert suppression.withhold(entry)[1] == gone


def test_new_rules_are_read_by_from_the_next_body_on() -> None:
    rules = [RULES]
    ring = Ring("user_id:ana")
    suppression = Suppression(ring, lambda _: rules[-1], lambda _: KEY, LIMITS)  # type: ignore[arg-type]
    body = b'{"batch":[{"type":"page","userId":" ANA"}]}'
    entry = Entry("default", "shop", Kind.BATCH, Flags.NONE, 1, 1, "", "", body)
    assert suppression.withhold(entry) == (entry, 0)
    rules.append(parse("types: {user_id: {normaliser: lower}}"))
    assert suppression.withhold(entry)[1] == 1
