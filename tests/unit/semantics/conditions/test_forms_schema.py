"""The schema takes what forms take, and refuses what has another shape."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from condition_trees import roots
from profilelake.semantics.conditions.forms import to_tree
from profilelake.semantics.conditions.forms_schema import CONDITION, REDUCTION, definitions, schema
from profilelake.semantics.conditions.tree import Reduce, Root

CASES = yaml.safe_load((Path(__file__).parents[3] / "spec/conditions/language/forms.yaml").read_text())
BEYOND_SHAPE = {
    "a text with an error",
    "an empty key in a path",
    "no number",
}
"""Errors that are not about the shape of a form."""
VALIDATOR = Draft202012Validator(schema())


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(schema())


@settings(max_examples=40)
@given(roots())
def test_every_form_has_the_shape(root: Root) -> None:
    kind = REDUCTION if isinstance(root, Reduce) else CONDITION
    Draft202012Validator({**kind, "$defs": definitions()}).validate(to_tree(root))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["about"])
def test_what_is_a_form_has_the_shape_and_what_is_none_has_not(case: dict[str, Any]) -> None:
    good = "error" not in case or case["about"] in BEYOND_SHAPE
    assert VALIDATOR.is_valid(case["form"]) == good
