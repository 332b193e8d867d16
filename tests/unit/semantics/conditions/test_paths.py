"""Paths as they are written."""

import pytest

from profilelake.semantics.conditions.paths import KEYS_MAX, keys, written_path


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a", ("a",)),
        ("a.b", ("a", "b")),
        (r"a\.b", ("a.b",)),
        (r"a\\\\.b.c", ("a.b", "c")),
        (r"a\b", (r"a\b",)),
        ("a b.c", ("a b", "c")),
        ("a.$.b", ("a", "b")),
        ("a.$", ("a",)),
        ("$", ("$",)),
        ("$x", ("$x",)),
        ("", None),
        (".", None),
        ("a.", None),
        ("a..b", None),
        (".".join("a" * KEYS_MAX), ("a",) * KEYS_MAX),
        (".".join("a" * (KEYS_MAX + 1)), None),
    ],
)
def test_paths(text: str, path: tuple[str, ...] | None) -> None:
    assert keys(text) == path
    if path is not None:
        assert keys(written_path(path)) == path
