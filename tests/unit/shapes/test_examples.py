"""What is shown of values: their form, and nothing of anybody."""

import pytest

from profilelake.semantics.shapes import JsonType, ShapePart
from profilelake.shapes.examples import EXAMPLE_CHARACTERS_MAX, example


@pytest.mark.parametrize(
    ("type", "text", "shown"),
    [
        ("string", '"ana.garcia7@example.org"', "aaa.aaaaaa9@aaaaaaa.aaa"),
        ("string", '"2026-03-01T10:00:00Z"', "9999-99-99A99:99:99A"),
        ("string", '"Zoë 名前"', "Aax xx"),
        ("string", r'"\u0001\u202eb\n"', " xa "),
        ("string", '""', ""),
        ("integer", "-4915112345678", "-9999999999999"),
        ("number", "52.520008", "99.999999"),
        ("number", "1e-5", "9a-9"),
        ("boolean", "true", "true"),
        ("object", "{", "{…}"),
        ("array", '["ana@example.org"]', "[…]"),
        ("array", "[]", "[]"),
    ],
)
@pytest.mark.parametrize("part", ["properties", "traits", "context"])
def test_only_the_form_is_shown(part: ShapePart, type: JsonType, text: str, shown: str) -> None:
    assert example(part, "any", type, text) == shown


def test_a_long_text_is_cut_and_its_length_told() -> None:
    assert example("traits", "about", "string", '"' + "ab " * 100 + '"') == (
        ("aa " * 100)[:EXAMPLE_CHARACTERS_MAX] + "… (300 characters)"
    )


def test_what_tells_of_programs_is_shown_as_it_is() -> None:
    assert example("context", "library.version", "string", '"next-1.84.3"') == "next-1.84.3"
    assert example("properties", "currency", "string", '"EUR"') == "EUR"
    assert example("traits", "currency", "string", '"EUR"') == "AAA"
    assert example("properties", "library.version", "string", '"next-1.84.3"') == "aaaa-9.99.9"


@pytest.mark.parametrize("text", ['"ana@example.org"', '"' + "a" * 41 + '"', '"Zoë"', r'"a\tb"'])
def test_what_is_no_plain_word_is_masked_there_too(text: str) -> None:
    shown = example("context", "library.name", "string", text)
    assert "ana" not in shown
    assert "Z" not in shown
    assert set(shown.split("…")[0]) <= set("aAx9@. ")
