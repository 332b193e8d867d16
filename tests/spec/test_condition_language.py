"""Every case of the language: what a text means, how it is written, what is wrong with it, and its YAML form."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from profilelake.semantics.conditions.check import Known, check
from profilelake.semantics.conditions.forms import FormError, from_tree, to_tree
from profilelake.semantics.conditions.parse import ParseError, parse
from profilelake.semantics.conditions.text import written

FOLDER = Path(__file__).parent / "conditions" / "language"
CASES = [
    pytest.param(path.stem, case, id=f"{path.stem}-{case['about'].replace(' ', '_')}")
    for path in sorted(FOLDER.glob("*.yaml"))
    for case in yaml.safe_load(path.read_text())
]
KNOWN = Known(
    events={"Order Completed": ["revenue", "category", "products"], "Product Added": ["sku"]},
    traits=["plan", "age", "signed_up"],
    definitions={"vip": "audience", "orders_30d": "trait"},
    entities={"orders": ["total", "state"]},
    sources=["web", "app"],
    users=Known(traits=["email"], definitions={"vip": "audience"}),
)


@pytest.mark.parametrize(("file", "case"), CASES)
def test_case(file: str, case: dict[str, Any]) -> None:
    case = {key: value for key, value in case.items() if key != "about"}
    match case:
        case {"same": texts, **rest}:
            assert not rest
            assert len({written(parse(text)) for text in texts}) == 1
            assert len({parse(text) for text in texts}) == 1
        case {"text": text, "written": canonical, **rest}:
            _reads(text, canonical, **rest)
        case {"text": text, "error": error}:
            _refuses(text, error)
        case {"text": text, "findings": findings, **rest}:
            _finds(text, findings, **rest)
        case {"form": form, "error": error}:
            with pytest.raises(FormError) as raised:
                from_tree(form)
            assert raised.value.place == error["place"]
            assert error["says"] in raised.value.problem
        case {"form": form, "written": canonical, **rest}:
            assert written(from_tree(form)) == canonical
            assert to_tree(parse(canonical)) == rest.pop("normal", form)
            assert not rest
        case _:
            pytest.fail(f"{file}: a case of no kind: {sorted(case)}")


def _reads(text: str, canonical: str, form: Any = None) -> None:
    root = parse(text)
    assert written(root) == canonical
    assert parse(canonical) == root
    assert from_tree(to_tree(root)) == root
    if form is not None:
        assert from_tree(form) == root


def _refuses(text: str, error: dict[str, Any]) -> None:
    with pytest.raises(ParseError) as raised:
        parse(text)
    found = raised.value
    assert (found.line, found.column) == tuple(error["at"]), str(found)
    assert error["says"] in found.problem, str(found)
    assert text[found.span[0] : found.span[1]] == error["under"]


def _finds(text: str, findings: list[dict[str, str]], kind: str = "audience", target: str = "users") -> None:
    found = check(parse(text), kind=kind, target=target, known=KNOWN)  # type: ignore[arg-type]
    assert [(one.severity, one.code, text[slice(*(one.span or (0, 0)))]) for one in found] == [
        (next(iter({"error", "warning"} & want.keys())), want.get("error") or want.get("warning"), want["at"])
        for want in findings
    ]
    for one, want in zip(found, findings, strict=True):
        assert want.get("says", "") in one.message
