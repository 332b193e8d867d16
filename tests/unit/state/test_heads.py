import msgspec
import pytest

from profilelake.state import heads, records

PAIRS = (
    (heads.IdentHead, records.IdentRecord),
    (heads.SetHead, records.SetRecord),
    (heads.ActivityHead, records.ActivityRecord),
    (heads.TraitHead, records.TraitRecord),
)


@pytest.mark.parametrize(("head", "record"), PAIRS)
def test_a_head_is_the_beginning_of_its_record(
    head: type[msgspec.Struct], record: type[msgspec.Struct]
) -> None:
    shown = [(field.name, field.type) for field in msgspec.structs.fields(head)]
    assert shown == [(field.name, field.type) for field in msgspec.structs.fields(record)][: len(shown)]


def test_what_follows_the_head_is_passed_over() -> None:
    write = records.TraitRecord('"x"', 5, b"p" * 32, "shop", "m-1")
    assert heads.decode_trait_heads(records.encode({"plan": write})) == {"plan": heads.TraitHead('"x"')}
