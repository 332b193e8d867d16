import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from profilelake.kernels.base62 import DIGITS, base62
from profilelake.semantics.identifiers import PREFIX, PUBLIC_ID_DIGITS, public_id


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=20))
@example([bytes(16), b"\xff" * 16, bytes(15) + b"\x3e", b"\x01" + bytes(15)])
@settings(max_examples=200, deadline=None)
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
