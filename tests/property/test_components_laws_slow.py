"""The laws of `test_components_laws`, over many more graphs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import component_laws as laws

pytestmark = pytest.mark.slow


@settings(max_examples=400)
@given(st.data())
def test_components_are_those_of_a_plain_union_find_whatever_the_files_and_limits(
    data: st.DataObject,
) -> None:
    laws.check_like_a_plain_union_find(data)


@settings(max_examples=100)
@given(st.data())
def test_numbers_of_components_depend_on_files_alone(data: st.DataObject) -> None:
    laws.check_numbers_depend_on_files_alone(data)
