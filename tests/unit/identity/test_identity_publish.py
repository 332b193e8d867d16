from hypothesis import given
from hypothesis import strategies as st

from profilelake.identity.publish import collections_of, public_ids, slots_of
from profilelake.identity.rows import shown
from profilelake.semantics.rules import COLLECTIONS
from profilelake.state.records import NOBODY, collection_name

KEYS = st.binary(min_size=16, max_size=16)


@given(st.lists(st.tuples(st.integers(0, len(COLLECTIONS) - 1), KEYS | st.just(NOBODY)), max_size=20))
def test_a_column_of_public_ids_shows_what_each_alone_shows(rows: list[tuple[int, bytes]]) -> None:
    ids = public_ids([number for number, _ in rows], [profile for _, profile in rows])
    ids.validate(full=True)
    assert ids.to_pylist() == [shown(collection_name(number), profile) for number, profile in rows]
    assert collections_of([number for number, _ in rows]).to_pylist() == [COLLECTIONS[n] for n, _ in rows]


@given(st.lists(KEYS, max_size=20))
def test_slots_are_the_first_sixteen_bits(keys: list[bytes]) -> None:
    assert slots_of(keys).to_pylist() == [int.from_bytes(key[:2], "big") for key in keys]
