"""Explanations are right for any story: a few of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explain_laws import explanations_are_right

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("windows", [False, True], ids=["limits for ever", "limits by the day"])
@settings(max_examples=6)
@given(data=st.data())
def test_explanations_are_right(data: st.DataObject, windows: bool) -> None:
    explanations_are_right(data, windows=windows)
