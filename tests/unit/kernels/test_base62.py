import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from profilelake.kernels.base62 import DIGITS, base62, parse62
from profilelake.semantics.identifiers import PREFIX, PUBLIC_ID_DIGITS, parse_public_id, public_id


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=20))
@example([bytes(16), b"\xff" * 16, bytes(15) + b"\x3e", b"\x01" + bytes(15)])
@settings(max_examples=200)
def test_writes_the_digits_of_public_ids(ids: list[bytes]) -> None:
    rows = np.frombuffer(b"".join(ids), dtype=np.uint8).reshape(-1, 16)
    digits = [row.tobytes().decode() for row in base62(rows)]
    assert digits == [public_id("users", one).removeprefix(PREFIX["users"]) for one in ids]


def test_powers_of_the_base_carry_into_the_next_digit() -> None:
    numbers = [62**power + more for power in range(22) for more in (-1, 0, 1)]
    ids = [number.to_bytes(16, "big") for number in numbers]
    digits = base62(np.frombuffer(b"".join(ids), dtype=np.uint8).reshape(-1, 16))
    assert digits.shape == (len(ids), PUBLIC_ID_DIGITS) == (len(ids), DIGITS)
    assert [row.tobytes().decode() for row in digits] == [public_id("users", one)[4:] for one in ids]


@given(
    st.lists(
        st.binary(min_size=16, max_size=16).map(lambda one: public_id("users", one)[4:])
        | st.text("0159AZaz", min_size=DIGITS, max_size=DIGITS)
        | st.text("zy-/:@[`{\x00é", min_size=DIGITS, max_size=DIGITS).filter(
            lambda text: len(text.encode()) == DIGITS
        ),
        max_size=20,
    )
)
@example(
    [
        public_id("users", b"\xff" * 16)[4:],
        public_id("users", bytes(16))[4:],
        "z" * DIGITS,
        "7n42DGM5Tflk9n8mt7Fhc8"[:22] + "00000",
    ]
)
@settings(max_examples=300)
def test_reads_what_the_reference_reads(texts: list[str]) -> None:
    rows = np.frombuffer("".join(texts).encode(), dtype=np.uint8).reshape(-1, DIGITS)
    ids, good = parse62(rows)
    found = [id.tobytes() if right else None for id, right in zip(ids, good.tolist(), strict=True)]
    told = [parse_public_id(PREFIX["users"] + text) for text in texts]
    assert found == [one and one[1] for one in told]


def test_one_more_than_the_greatest_id_is_none() -> None:
    greatest = public_id("users", b"\xff" * 16)[4:]
    # No digit of it is the last one, so the next number is told by its last digit alone.
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    more = greatest[:-1] + alphabet[alphabet.index(greatest[-1]) + 1]
    rows = np.frombuffer((greatest + more).encode(), dtype=np.uint8).reshape(-1, DIGITS)
    assert parse62(rows)[1].tolist() == [True, False]
