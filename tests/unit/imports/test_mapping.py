"""Mappings: what is written, what is found out, what is refused."""

from pathlib import Path

import pytest

from profilelake.errors import Invalid
from profilelake.imports.mapping import OWN, ColumnMapping, Place


def automatic(*names: str, type: str | None = "track") -> dict[str, str]:
    return {name: ".".join(place.path) for name, place in ColumnMapping().places(names, type).items()}


def test_names_of_fields_are_fields() -> None:
    assert automatic("userId", "type", "properties", "properties.a.b", "traits.email", "context.ip") == {
        "userId": "userId",
        "type": "type",
        "properties": "properties",
        "properties.a.b": "properties.a.b",
        "traits.email": "traits.email",
        "context.ip": "context.ip",
    }


def test_columns_of_a_warehouse() -> None:
    names = ("id", "received_at", "uuid_ts", "user_id", "event", "event_text", "context_page_url",
             "context_user_agent", "context_ip", "context_library_name", "revenue")  # fmt: skip
    assert automatic(*names) == {
        "id": "messageId",
        "received_at": "receivedAt",
        "user_id": "userId",
        "event_text": "event",
        "context_page_url": "context.page.url",
        "context_user_agent": "context.userAgent",
        "context_ip": "context.ip",
        "context_library_name": "context.library.name",
        "revenue": f"{OWN}.revenue",
    }


def test_the_lakes_own_events() -> None:
    names = (
        "message_id",
        "position",
        "set_id",
        "type",
        "user_id",
        "timestamp",
        "received_at",
        "properties",
        "region",
    )
    assert automatic(*names, type=None).keys() == {"message_id", "type", "user_id", "timestamp", "properties"}


def test_a_file_and_options(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text(
        '[columns]\nuser = "userId"\n"when" = "timestamp:epoch_ms"\n[constants]\nevent = "Bought"\n'
    )
    mapping = ColumnMapping.load(path, ["when=timestamp:epoch_s", "mail=traits.email"], ["type=track"])
    assert mapping.columns == {
        "user": Place(("userId",)),
        "when": Place(("timestamp",), "epoch_s"),
        "mail": Place(("traits", "email")),
    }
    assert mapping.constants == {"event": "Bought", "type": "track"}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("user", "write column=field"),
        ("user=", "write column=field"),
        ("user=id", "no field 'id'"),
        ("user=userId.x", "one value and has no parts"),
        ("user=traits..x", "no field"),
        ("user=userId:integer", "is none of auto"),
    ],
)
def test_options_that_are_none(option: str, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        ColumnMapping.load(None, [option], [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[column]\na='b'", r"no section \[column\]"),
        ("[columns]\na=1", r"\[columns\] has lines"),
        ("columns=1", r"\[columns\] has lines"),
        ("a", "reading mapping"),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(Invalid, match=message):
        ColumnMapping.load(path, [], [])


def test_columns_that_do_not_fit() -> None:
    mapping = ColumnMapping.load(None, ["user=userId"], [])
    with pytest.raises(Invalid, match="column 'user': there is none; there are a, b"):
        mapping.places(["a", "b"], "track")
    with pytest.raises(Invalid, match="no column says what type"):
        mapping.places(["user"], None)
    with pytest.raises(Invalid, match="several columns 'a'"):
        automatic("a", "b", "a")
    with pytest.raises(Invalid, match=r"columns 'userId' and 'user_id': both go to userId"):
        automatic("userId", "user_id")
