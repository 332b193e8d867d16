"""What can be typed to put an event right, and what it does."""

import json
from typing import Any

import pytest

from profilelake.errors import Invalid
from profilelake.failed.edits import Edits, NotEditable, edited_events, position_of
from profilelake.semantics import json_text

POSITION = "00" * 31 + "07"


def apply(event: Any, *, rename: list[str] = [], unset: list[str] = [], set: list[str] = []) -> Any:  # noqa: B006
    before = json.dumps(event)
    message = json_text.value(before)
    assert isinstance(message, dict)
    changed = Edits.parse(rename, unset, set).apply(message)
    assert json_text.dump(message) == json_text.dump(json_text.value(before))  # it is not changed itself
    return json.loads(json_text.dump(changed))


def test_values_are_set_removed_and_moved() -> None:
    event = {"user_id": "u", "context": {"device": {"id": 1, "x": 2}}, "a": 1}
    assert apply(
        event, rename=["user_id=userId"], unset=["context.device.x"], set=['properties.p="v"', "a=null"]
    ) == {
        "context": {"device": {"id": 1}},
        "a": None,
        "userId": "u",
        "properties": {"p": "v"},
    }


def test_what_is_not_there_is_not_missed() -> None:
    assert apply({"a": 1}, rename=["b=c", "a.b=c"], unset=["x.y", "z"]) == {"a": 1}


def test_a_dot_in_a_key_is_escaped() -> None:
    assert apply({}, set=[r"a\.b.c=[1]"]) == {"a.b": {"c": [1]}}


def test_the_value_may_hold_an_equals_sign() -> None:
    assert apply({}, set=['q="a=b"']) == {"q": "a=b"}


def test_numbers_keep_their_digits() -> None:
    edits = Edits.parse([], [], ["n=12345678901234567890.10"])
    assert json_text.dump(edits.apply({})) == '{"n":12345678901234567890.10}'


def test_nothing_is_put_into_what_is_no_object() -> None:
    with pytest.raises(NotEditable, match=r"context is no object, so context\.ip cannot be set"):
        apply({"context": "web"}, set=['context.ip="1"'])


@pytest.mark.parametrize(
    ("option", "text", "told"),
    [
        ("set", "event", "path=JSON"),
        ("set", "event=Order", "the value is no JSON"),
        ("set", "event=" + "[" * 200 + "]" * 200, "the value is no JSON"),
        ("set", ".=1", "write it as userId"),
        ("set", "a..b=1", "write it as userId"),
        ("unset", "", "write it as userId"),
        ("unset", ".".join("a" * 40), "write it as userId"),
        ("rename", "a=", "path=path"),
    ],
)
def test_what_is_no_edit_is_refused(option: str, text: str, told: str) -> None:
    given: dict[str, list[str]] = {"set": [], "unset": [], "rename": []} | {option: [text]}
    with pytest.raises(Invalid, match=told):
        Edits.parse(given["rename"], given["unset"], given["set"])


@pytest.mark.parametrize("spread", ["[\n%s,\n%s\n]\n", "%s\n\n%s\n", "[%s,%s]"])
def test_edited_events_are_read_as_an_array_or_as_lines(spread: str) -> None:
    first = json.dumps({"position": POSITION, "event": {"n": 1}})
    second = json.dumps({"position": "11" * 32, "event": None})
    read = [(position, event) for position, event in edited_events(spread % (first, second))]
    assert [position.hex() for position, _ in read] == [POSITION, "11" * 32]
    assert json_text.dump(read[0][1]) == '{"n":1}'
    assert read[1][1] is None


@pytest.mark.parametrize(
    "text",
    ["{", "7", '{"event":{}}', '{"position":"x"}', f'{{"position":"{POSITION}","event":7}}', "[{]", "[" * 300,
     f'{{"position":"{POSITION}","event":' + '{"a":' * 120 + "1" + "}" * 121],
)  # fmt: skip
def test_what_is_no_edited_event_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        list(edited_events(text))


def test_positions_are_read_as_they_are_printed() -> None:
    assert position_of(POSITION).hex() == POSITION
    for text in ("", "0" * 63, "G" * 64, "AA" * 32):
        with pytest.raises(Invalid):
            position_of(text)
