"""The page about the language: every example is one, and every printed output is what is printed."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from profilelake.errors import Invalid
from profilelake.semantics.conditions import _form_values, forms, parse
from profilelake.semantics.conditions.check import Known, check
from profilelake.semantics.conditions.tree import Comparison, How

PAGE = (Path(__file__).parents[3] / "docs" / "conditions.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
TEXTS = [line for kind, block in BLOCKS if kind == "" for line in block.splitlines()]
FORMS = [block for kind, block in BLOCKS if kind == "yaml"]
OUTPUTS = re.findall(r"^<!-- example: (.*?) -->\n```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
KNOWN = Known(events={"Order Completed": [], "Product Added": [], "Signed In": []})


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_is_a_definition_without_errors(text: str) -> None:
    root = parse.parse(text)
    target = "accounts" if text.startswith("ALL") else "users"
    kind = "trait" if isinstance(root, parse.Reduce) else "audience"
    assert check(root, kind=kind, target=target, known=KNOWN) == []


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_a_definition(form: str) -> None:
    root = forms.from_tree(yaml.safe_load(form))
    assert forms.from_tree(forms.to_tree(root)) == root


def test_the_first_text_and_the_first_form_say_the_same() -> None:
    assert parse.parse(TEXTS[0]) == forms.from_tree(yaml.safe_load(FORMS[0]))


@pytest.mark.parametrize(("text", "printed"), OUTPUTS)
def test_every_output_is_what_is_printed(text: str, printed: str) -> None:
    try:
        root = parse.parse(text)
    except Invalid as error:
        told = str(error)
    else:
        told = "\n".join(
            finding.shown(text) for finding in check(root, kind="audience", target="users", known=KNOWN)
        )
    assert told == printed.rstrip("\n")


def test_the_error_of_a_form_is_what_is_printed() -> None:
    form = {"all": [{"trait": "a", "equals": 1}, {"event": "A", "count": {"atleast": 1}}]}
    with pytest.raises(_form_values.FormError) as raised:
        forms.from_tree(form)
    place, problem = re.findall(r"^Errors name the place: `(.*?): (.*?)`", PAGE, re.MULTILINE)[0]
    assert raised.value.place.startswith(place)
    assert raised.value.problem.startswith(problem)


def test_every_function_is_told() -> None:
    for name in (
        *get_args(Comparison),
        *get_args(How),
        "expires_after",
        "between",
        "sources",
        "where",
        "any",
        "all",
    ):
        assert re.search(rf"[.`]{name}\b", PAGE), name


def test_every_code_of_a_finding_is_told() -> None:
    folder = Path(parse.__file__).parent
    source = "".join((folder / name).read_text() for name in ("check.py", "_compared.py", "_names.py"))
    codes = set(re.findall(r'(?:_error|_warn|_warning)\(\s*[\w\[\]., ]+,\s*"([a-z_]+)"', source))
    codes |= set(re.findall(r'Finding\("(?:error|warning)", "([a-z_]+)"', source))
    codes |= set(re.findall(r'return \(?"([a-z_]+)", ', source))
    codes |= {f"unknown_{what}" for what in ("event", "property", "trait", "source")}
    assert len(codes) > 20
    for code in codes:
        assert f"`{code}`" in PAGE, code
