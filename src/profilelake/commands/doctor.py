"""`profilelake doctor`: what may be wrong, and what to do."""

import os
from pathlib import Path

from profilelake.commands.common import DEFAULT_DIRECTORY, Directory, Json, print_json, server_of
from profilelake.errors import Invalid
from profilelake.settings import Layout, Settings

_MARKS = ("ok  ", "WARN", "BAD ")


def doctor(directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> int:
    """Look at everything that may be wrong. Changes nothing; exit code 0, 10 (warnings) or 20 (problems)."""
    from profilelake.app.directory import kernel_cache

    layout = Layout(directory)
    if not (layout.directory / "FORMAT").exists():
        raise Invalid(f"examining {directory}: not a profilelake data directory; name one with --dir")
    cache = Path(os.environ.setdefault("NUMBA_CACHE_DIR", str(kernel_cache(layout))))
    from profilelake.doctor.findings import Patient, worst
    from profilelake.doctor.run import examine
    from profilelake.ops.clock import wall

    patient = Patient(
        layout=layout,
        settings=Settings.load(directory, os.environ),
        workspace="default",
        server=server_of(layout),
        now=wall(),
        kernel_cache=cache,
    )
    findings = []
    for finding in examine(patient):
        findings.append(finding)
        if as_json:
            continue
        print(f"{_MARKS[finding.level]} {finding.check}: {finding.text}")
        if finding.fix:
            print(f"       -> {finding.fix}")
    level = worst(findings)
    if as_json:
        print_json(
            {
                "worst": level.name.lower(),
                "findings": [
                    {"check": f.check, "level": f.level.name.lower(), "text": f.text, "fix": f.fix}
                    for f in findings
                ],
            }
        )
    return level.exit_code
