"""`destinations.yaml`, good and bad."""

import pytest

from profilelake.definitions.destinations import InvalidDefinition, parse
from profilelake.semantics.destinations import IdSync

GOOD = """
destinations:
  crm:
    url: https://crm.example.org/hook
    secret: $CRM_SECRET
    previous_secret: crm-old
    definitions: [vip, score]
    ids:
      - {type: user_id, strategy: all}
      - {type: email, map_to: mail}
      - anonymous_id
    consent: [marketing]
    headers: {X-Team: growth}
    batch: 50
    parallel: 2
    retry_hours: 1.5
    backfill: false
  cdp:
    type: segment
    url: https://events.example.org
    secret: cdp-key
    send: [track]
    entered: Joined
    integrations: {All: false, CRM: true}
"""


def test_a_good_file() -> None:
    crm, cdp = parse(GOOD)
    assert (crm.name, crm.type, crm.definitions) == ("crm", "webhook", ("vip", "score"))
    assert crm.ids == (IdSync("user_id", "all"), IdSync("email", "last", "mail"), IdSync("anonymous_id"))
    assert (crm.retry_hours, crm.batch, crm.backfill, crm.headers) == (
        1.5,
        50,
        False,
        (("X-Team", "growth"),),
    )
    assert (cdp.type, cdp.send, cdp.entered) == ("segment", ("track",), "Joined")
    assert cdp.integrations == (("All", False), ("CRM", True))
    assert cdp.managed_by == "destinations.yaml"
    assert parse("") == parse("destinations:") == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("url: ftp://x.example/", "https"),
        ("url: https://user:word@x.example/", "leave out user"),
        ("url: https://x.example/ y", "characters"),
        ("url: https://1.2.3.999/", "neither a name nor an address"),
        ("url: 'https://[::1%eth0]/'", "neither a name nor an address"),
        ("url: 'https://[::1]x/'", "neither a name nor an address"),
        ("url: https://a..example/", "neither a name nor an address"),
        ("type: email", "webhook, segment"),
        ("secret: 'my secret'", "never the secret itself"),
        ("batch: 0", "1 to 1,000"),
        ("parallel: many", "whole number"),
        ("enabled: maybe", "true or false"),
        ("ids: []", "1 to 5"),
        ("ids: [{type: a, strategy: newest}]", "first, last, all"),
        ("ids: [a, a]", "once"),
        ("ids: [{strategy: all}]", "name the `type`"),
        ("headers: {Host: x}", "cannot be set"),
        ("headers: {X-A: 'é'}", "ASCII"),
        ("definitions: []", "name 1 to"),
        ("retry_hours: 9999", "336"),
        ("bach: 1", "did you mean batch"),
        ("send: [page]", "identify, track"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(line: str, told: str) -> None:
    base = {"url": "url: https://x.example/", "secret": "secret: s"}
    base[line.partition(":")[0]] = line
    text = "destinations:\n  one:\n" + "".join(f"    {said}\n" for said in base.values())
    with pytest.raises(InvalidDefinition) as caught:
        parse(text)
    assert told in str(caught.value)
    assert "line " in str(caught.value)


def test_a_name_and_a_url_are_needed() -> None:
    with pytest.raises(InvalidDefinition) as caught:
        parse("destinations:\n  'a b':\n    secret: s\n")
    assert "name" in str(caught.value)
    assert "url" in str(caught.value)
