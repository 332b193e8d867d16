"""Paths found in many texts at once are those a plain reader finds, whatever the texts hold."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilelake.kernels.json_paths import (
    ASK,
    DIGITS,
    MISSING,
    NULL,
    NUMBER,
    STRING,
    encode,
    find,
    trie,
)
from profilelake.semantics.conditions.values import found

_KINDS = {bool: (2, 3), str: (5,), dict: (7,), list: (8,)}
KEYS = ("a", "b", "ab", "é", "a.b", 'q"', "eight_by", "eight_bytes", "eight_bytez", "")
_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.1, 1e22, 1e23, 5e-324, 2**53, 2**53 + 1, 10**40, -0.0, 123456789012345678]),
    st.text(max_size=12),
)
_values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
_documents = st.dictionaries(st.sampled_from(KEYS), _values, max_size=6)
_paths = st.lists(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3).map(tuple), min_size=1, max_size=6)


def look(
    texts: list[str | None], paths: list[tuple[str, ...]], order: list[int] | None = None
) -> list[list[Any]]:
    """Return kind, text and double of every path (outer list) in every text."""
    column = pa.array(texts, pa.string())
    offsets = np.frombuffer(column.buffers()[1], dtype=np.int32)
    data = np.frombuffer(column.buffers()[2] or b"", dtype=np.uint8)
    rows = np.arange(len(texts))
    seen = find(data, offsets, rows, rows if order is None else np.array(order), trie(paths))
    return [
        [
            (kind, bytes(data[start:stop]).decode(), number)
            for kind, start, stop, number in zip(*(part[path].tolist() for part in seen), strict=True)
        ]
        for path in range(len(paths))
    ]


@given(st.lists(_documents, min_size=1, max_size=5), _paths, st.booleans(), st.booleans(), st.data())
def test_what_is_found_is_what_a_plain_reader_finds(
    documents: list[dict[str, Any]],
    paths: list[tuple[str, ...]],
    ascii: bool,
    spaced: bool,
    data: st.DataObject,
) -> None:
    paths = sorted(set(paths))
    texts = [json.dumps(one, ensure_ascii=ascii, indent=1 if spaced else None) for one in documents]
    order = data.draw(st.permutations(range(len(texts))))
    for path, seen in zip(paths, look(texts, paths, order), strict=True):
        for document, (kind, text, number) in zip(documents, seen, strict=True):
            expected = found(path, document)
            if kind == ASK:
                continue
            if kind in (MISSING, NULL):
                assert expected is None
                continue
            assert json.loads(text) == expected
            assert (kind in (NUMBER, DIGITS)) == (
                isinstance(expected, int | float) and not isinstance(expected, bool)
            )
            if kind == NUMBER:
                assert number == float(expected)
            if kind == STRING:
                assert isinstance(expected, str)


def test_only_arrays_on_the_way_and_escaped_keys_are_left_to_the_plain_reader() -> None:
    texts = [
        '{"a":{"b":[1]}}',
        '{"a":[{"b":1}]}',
        '{"\\u0061":1,"a":{"b":2}}',
        '{"x":[{"b":1}],"a":{"b":"\\n"}}',
    ]
    (whole, inner) = look(texts, [("a",), ("a", "b")])
    assert [kind for kind, _, _ in inner] == [8, ASK, ASK, STRING]
    assert [kind for kind, _, _ in whole] == [7, 8, ASK, 7]


def test_of_equal_keys_the_last_counts() -> None:
    texts = ['{"a":{"b":1},"a":{"c":2}}', '{"a":{"b":1},"a":3}', '{"a":1,"a":null}', '{"a":{"b":1,"b":[2]}}']
    (whole, inner) = look(texts, [("a",), ("a", "b")])
    assert [text for _, text, _ in whole] == ['{"c":2}', "3", "null", '{"b":1,"b":[2]}']
    assert [kind for kind, _, _ in inner] == [MISSING, MISSING, MISSING, 8]


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "{", "}", "[]", "null", '"a"', '{"a', '{"a"', '{"a":', '{"a":t', '{"a":"', '{"a":"\\', '{"a":[',
        '{"a":{"b":', '{"a":1', '{"a":-', '{"a":1e', '{"a":tru', '{a:1}', '{"a" 1}', '{"a":]}', '{"a":nul',
        '{"b":[1,"a":2}', '{"b":{"a":1', "\x00", '{"a":\x001}',
    ],
)  # fmt: skip
def test_what_is_no_json_does_no_harm(text: str) -> None:
    behind = '{"a":7}'
    ((broken, whole),) = look([text, behind], [("a",)])
    assert whole == (NUMBER, "7", 7.0)
    assert broken[1] in text


@pytest.mark.parametrize(
    ("digits", "kind"),
    [
        ("0", NUMBER), ("-0", NUMBER), ("1.50", NUMBER), ("-12.25e-3", NUMBER), ("1E2", NUMBER),
        ("9007199254740992", NUMBER), ("9007199254740993", DIGITS), ("1e22", NUMBER), ("1e23", DIGITS),
        ("0.1000000000000000055", DIGITS), ("1e999", DIGITS), ("1e-99999999999999999999", DIGITS),
        ("123456789012345678901234567890", DIGITS),
    ],
)  # fmt: skip
def test_a_double_is_given_where_it_is_exactly_that_of_the_digits(digits: str, kind: int) -> None:
    (((seen, text, number),),) = look([f'{{"a":{digits}}}'], [("a",)])
    assert (seen, text) == (kind, digits)
    if kind == NUMBER:
        assert str(number) == str(float(digits))


@given(st.lists(st.text(max_size=20), min_size=1, max_size=30), st.data())
def test_equal_texts_have_one_code(words: list[str], data: st.DataObject) -> None:
    wanted = np.array(data.draw(st.lists(st.booleans(), min_size=len(words), max_size=len(words))))
    encoded = [word.encode() for word in words]
    ends = np.cumsum([len(word) for word in encoded])
    starts = ends - [len(word) for word in encoded]
    text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    order = np.array(data.draw(st.permutations(range(len(words)))))
    codes, firsts = encode(text, starts.astype(np.int32), ends.astype(np.int32), wanted, order)
    assert [words[first] for first in firsts] == list(
        dict.fromkeys(words[row] for row in order if wanted[row])
    )
    for row, word in enumerate(words):
        assert (words[firsts[codes[row]]] == word) if wanted[row] else codes[row] == -1
