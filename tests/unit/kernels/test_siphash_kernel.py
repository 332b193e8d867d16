import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profilelake.errors import Internal, Invalid
from profilelake.kernels import siphash
from profilelake.semantics import identifiers
from profilelake.semantics.identifiers import Identifier
from profilelake.semantics.siphash import siphash128

KEY = bytes(range(16))
TEXT_TYPES = [pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.string_view()]

keys = st.binary(min_size=16, max_size=16)
texts = st.one_of(st.text(), st.text(alphabet="\0é漢🙂a", max_size=40))


@given(keys, st.binary(max_size=20), st.lists(texts, max_size=8), st.sampled_from(TEXT_TYPES))
@settings(max_examples=100)
def test_hashes_as_the_reference_does(
    key: bytes, prefix: bytes, values: list[str], type: pa.DataType
) -> None:
    words = siphash.hash_strings(key, prefix, pa.array(values).cast(type))
    assert siphash.to_bytes(words) == [siphash128(key, prefix + value.encode()) for value in values]


@pytest.mark.parametrize("prefix_size", range(17))
def test_every_size_of_prefix_and_value(prefix_size: int) -> None:
    prefix = bytes(range(prefix_size))
    values = [bytes(range(size)) for size in range(34)]
    words = siphash.hash_strings(KEY, prefix, pa.array(values))
    assert siphash.to_bytes(words) == [siphash128(KEY, prefix + value) for value in values]


def test_values_longer_than_64_kib() -> None:
    values = ["x" * 70_001, "", "é" * 40_000]
    words = siphash.hash_strings(KEY, b"p", pa.array(values))
    assert siphash.to_bytes(words) == [siphash128(KEY, b"p" + value.encode()) for value in values]


@given(st.lists(st.one_of(st.none(), texts), max_size=12), st.integers(0, 12), st.integers(0, 12))
@settings(max_examples=60)
def test_slices_chunks_and_nulls(values: list[str | None], start: int, size: int) -> None:
    part = pa.array(values, pa.string()).slice(start, size)
    chunked = pa.chunked_array([part, part.slice(1), pa.array([], pa.string())], pa.string())
    words = siphash.hash_strings(KEY, b"iuemail\0", chunked)
    assert siphash.to_bytes(words) == [
        bytes(16) if value is None else siphash128(KEY, b"iuemail\0" + value.encode())
        for value in chunked.to_pylist()
    ]


def test_dictionary_columns() -> None:
    values = pa.array(["a", "b", "a"]).dictionary_encode()
    words = siphash.hash_strings(KEY, b"", values)
    assert siphash.to_bytes(words) == [siphash128(KEY, value) for value in (b"a", b"b", b"a")]


def test_ids_of_mixed_types_and_of_their_sets() -> None:
    rows = [Identifier("user_id", "u1"), Identifier("email", "ä@b.example"), Identifier("anonymous_id", "")]
    words = siphash.hash_typed(
        KEY,
        [identifiers.ident_prefix("users", row.type) for row in rows],
        np.array([2, 0, 1, 0], dtype=np.int32),
        pa.array([rows[2].value, rows[0].value, rows[1].value, rows[0].value]),
    )
    ids = [identifiers.ident_id(KEY, "users", row) for row in rows]
    assert siphash.to_bytes(words) == [ids[2], ids[0], ids[1], ids[0]]
    offsets = np.array([0, 3, 3, 4], dtype=np.int64)
    set_ids = siphash.set_ids(KEY, identifiers.set_prefix("users"), words, offsets)
    assert siphash.to_bytes(set_ids) == [
        identifiers.set_id(KEY, "users", ids),
        identifiers.set_id(KEY, "users", []),
        identifiers.set_id(KEY, "users", ids[:1]),
    ]


@given(st.lists(st.lists(st.binary(min_size=16, max_size=16), max_size=6), max_size=6), st.binary(max_size=9))
@settings(max_examples=60)
def test_sets_are_hashed_in_byte_order(groups: list[list[bytes]], prefix: bytes) -> None:
    joined = b"".join(one for group in groups for one in group)
    words = np.frombuffer(joined, dtype=np.uint64).reshape(-1, 2)
    offsets = np.cumsum([0, *map(len, groups)], dtype=np.int64)
    expected = [siphash128(KEY, prefix + b"".join(sorted(group))) for group in groups]
    assert siphash.to_bytes(siphash.set_ids(KEY, prefix, words, offsets)) == expected


def test_arrow_columns_hold_the_same_bytes() -> None:
    words = siphash.hash_strings(KEY, b"", pa.array(["a", "b", "c"]))
    column = siphash.to_arrow(words)
    assert column.to_pylist() == siphash.to_bytes(words)
    assert (siphash.from_arrow(column.slice(1)) == words[1:]).all()
    assert (siphash.from_arrow(pa.chunked_array([column, column])) == np.concatenate([words, words])).all()
    assert siphash.from_arrow(column.slice(3)).shape == (0, 2)


def test_refuses_what_it_cannot_hash() -> None:
    with pytest.raises(Internal, match="int64"):
        siphash.hash_strings(KEY, b"", pa.array([1]))
    with pytest.raises(Invalid, match="3 bytes"):
        siphash.hash_strings(b"key", b"", pa.array(["a"]))
    with pytest.raises(Internal, match="outside"):
        siphash.hash_typed(KEY, [b""], np.array([1], dtype=np.int32), pa.array(["a"]))
    with pytest.raises(Internal, match="offsets"):
        siphash.set_ids(KEY, b"", np.zeros((1, 2), dtype=np.uint64), np.array([0, 2], dtype=np.int64))
    with pytest.raises(Internal, match="string"):
        siphash.from_arrow(pa.array(["a"]))


def test_each_loop_is_compiled_once() -> None:
    siphash.warm()
    read_only = pa.array(["a"]).cast(pa.large_string())
    siphash.hash_strings(KEY, b"", read_only)
    siphash.hash_strings(KEY, b"", pa.array(["a", None], pa.binary()))
    assert len(siphash._hash_typed.signatures) == 1  # type: ignore[attr-defined]
    assert len(siphash._set_ids.signatures) == 1  # type: ignore[attr-defined]
