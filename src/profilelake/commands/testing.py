"""`profilelake test`: do the definitions of a data directory mean what their cases say? No server is asked."""

import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from profilelake.commands.common import DEFAULT_DIRECTORY, Directory, Json, print_json, tell_unread
from profilelake.errors import Invalid

if TYPE_CHECKING:
    from profilelake.definitions.testing import Missed, Outcome, Worth

FAILED: Final = 1
ENGINES: Final = ("reference", "columns")


def run_cases(
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Also write a report in JUnit's XML.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="reference, or columns to run the form that the server uses as well.")
    ] = "reference",
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> int:
    """Run the cases in DIR/definitions. Ends with 1 if one fails, with 2 if the files are no good."""
    from profilelake.definitions.computed import load
    from profilelake.definitions.testing import run
    from profilelake.settings import Layout

    if engine not in ENGINES:
        raise Invalid(f"--engine {engine}: it is one of {', '.join(ENGINES)}")
    if not directory.is_dir():
        raise Invalid(f"testing {directory}: no such directory; name one with --dir")
    layout = Layout(directory)
    tell_unread(layout)
    computed = load(layout.definitions)
    outcomes = list(run(computed))
    if engine == "columns":
        outcomes = _both(outcomes, list(run(computed, _columns())))
    if junit is not None:
        junit.write_bytes(_report(outcomes))
    failed = [outcome for outcome in outcomes if outcome.missed]
    if as_json:
        print_json(
            {"cases": len(outcomes), "failed": len(failed), "failures": [_shown(one) for one in failed]}
        )
        return FAILED if failed else 0
    for outcome in failed:
        print(f"{outcome.case.file} line {outcome.case.line}: {outcome.case.about}")
        for missed in outcome.missed:
            print(f"  {_told(missed)}")
    good = len(outcomes) - len(failed)
    untested = sorted(
        computed.written.keys() - {key for case in computed.cases for e in case.expected for key in e.values}
    )
    if untested:
        print(f"no case says what to expect of {', '.join(untested)}", file=sys.stderr)
    print(f"{good:,} of {len(outcomes):,} cases good")
    return FAILED if failed else 0


def _columns() -> "Worth":
    from profilelake.app.trying import columns

    return columns


def _both(by_reference: "Sequence[Outcome]", by_columns: "Sequence[Outcome]") -> "list[Outcome]":
    """Return what either engine missed; what both miss alike is told once."""
    from profilelake.definitions.testing import Outcome

    return [
        Outcome(one.case, (*one.missed, *(each for each in other.missed if each not in one.missed)))
        for one, other in zip(by_reference, by_columns, strict=True)
    ]


def _told(missed: "Missed") -> str:
    from profilelake.semantics.conditions.values import canonical
    from profilelake.semantics.times import format_time

    at = format_time(missed.at).replace(".000000Z", "Z")
    where = f"line {missed.line}: {missed.key} at {at}"
    if missed.fault:
        return f"{where}: {missed.fault}"
    return f"{where}: expected {canonical(missed.expected)}, got {canonical(missed.got)}"


def _shown(outcome: "Outcome") -> dict[str, object]:
    from profilelake.semantics.times import format_time

    return {
        "about": outcome.case.about,
        "file": outcome.case.file,
        "line": outcome.case.line,
        "missed": [
            {
                "line": missed.line,
                "at": format_time(missed.at),
                "key": missed.key,
                "expected": missed.expected,
                "got": missed.got,
                "fault": missed.fault,
            }
            for missed in outcome.missed
        ],
    }


def _report(outcomes: "Sequence[Outcome]") -> bytes:
    """Return the outcomes as CI servers read them."""
    failed = str(sum(bool(outcome.missed) for outcome in outcomes))
    suite = ET.Element("testsuite", name="profilelake definitions", tests=str(len(outcomes)), failures=failed)
    for outcome in outcomes:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=outcome.case.file,
            name=_printable(outcome.case.about),
            line=str(outcome.case.line),
        )
        if outcome.missed:
            message = _printable("\n".join(_told(missed) for missed in outcome.missed))
            ET.SubElement(case, "failure", message=message.splitlines()[0]).text = message
    return bytes(ET.tostring(suite, encoding="utf-8", xml_declaration=True))


def _printable(text: str) -> str:
    """Return a text without characters that XML cannot hold."""
    return "".join(
        character if character.isprintable() or character == "\n" else "\ufffd" for character in text
    )
