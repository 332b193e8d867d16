import pytest

from profilelake.errors import Invalid
from profilelake.semantics.siphash import siphash128

KEY = bytes(range(16))

# The published vectors of SipHash-2-4 with 128-bit output: message n is the bytes 0 to n - 1.
PUBLISHED = {
    0: "a3817f04ba25a8e66df67214c7550293",
    1: "da87c1d86b99af44347659119b22fc45",
    7: "a1f1ebbed8dbc153c0b84aa61ff08239",
    8: "3b62a9ba6258f5610f83e264f31497b4",
    15: "5493e99933b0a8117e08ec0f97cfc3d9",
    16: "6ee2a4ca67b054bbfd3315bf85230577",
    63: "5150d1772f50834a503e069a973fbd7c",
}


@pytest.mark.parametrize(("size", "expected"), PUBLISHED.items())
def test_agrees_with_the_published_vectors(size: int, expected: str) -> None:
    assert siphash128(KEY, bytes(range(size))).hex() == expected


def test_agrees_on_a_long_message() -> None:
    assert siphash128(KEY, b"ab" * 40_000).hex() == "80f8b290e587cab0cbcde7a18490dc77"


def test_another_key_gives_another_hash() -> None:
    assert siphash128(bytes(16), b"") != siphash128(KEY, b"")


def test_refuses_a_key_of_another_length() -> None:
    with pytest.raises(Invalid, match="15 bytes"):
        siphash128(bytes(15), b"")
