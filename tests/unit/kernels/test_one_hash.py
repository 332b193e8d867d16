"""One value is hashed alike, whoever does it."""

import runpy
import sys
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilelake.kernels import one_hash
from profilelake.semantics import siphash

KEYS = st.binary(min_size=16, max_size=16)


@given(KEYS, st.binary(max_size=300))
def test_the_fast_form_is_the_reference(key: bytes, data: bytes) -> None:
    assert one_hash.siphash128(key, data) == siphash.siphash128(key, data)


def test_without_the_library_the_reference_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nacl", None)
    monkeypatch.setitem(sys.modules, "nacl.bindings", None)
    assert loaded()["siphash128"] is siphash.siphash128


def test_with_the_library_it_is_asked_for_the_value_under_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    bindings = ModuleType("nacl.bindings")
    bindings.crypto_shorthash_siphashx24 = lambda message, key: key + message  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nacl", ModuleType("nacl"))
    monkeypatch.setitem(sys.modules, "nacl.bindings", bindings)
    assert loaded()["siphash128"](b"key ", b"value") == b"key value"


def loaded() -> dict[str, Any]:
    return runpy.run_path(one_hash.__file__)
