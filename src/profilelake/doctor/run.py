"""All checks, one after the other; what breaks one of them is a finding of it."""

from collections.abc import Callable, Iterator
from typing import Final

from profilelake.doctor import catalog, data, directory, machine, storage
from profilelake.doctor.findings import Finding, Patient, problem
from profilelake.errors import ProfilelakeError

Check = Callable[[Patient], Iterator[Finding]]

CHECKS: Final[tuple[Check, ...]] = (
    directory.format,
    directory.owner,
    directory.access,
    directory.room,
    directory.sync_speed,
    directory.key,
    directory.backups,
    directory.leftovers,
    data.log,
    data.state,
    catalog.catalog,
    storage.storage,
    data.tables,
    data.message_ids,
    data.account,
    machine.limits,
    machine.jail,
    machine.compiled,
    machine.port,
    machine.engine,
    machine.versions,
)


def examine(patient: Patient, checks: tuple[Check, ...] = CHECKS) -> Iterator[Finding]:
    """Yield what the checks find, in their order, each as soon as it is found."""
    for check in checks:
        name = check.__name__.replace("_", " ")
        try:
            yield from check(patient)
        except (ProfilelakeError, OSError) as error:
            yield problem(name, str(error), "put that right, then run doctor again")
        except Exception as error:  # noqa: BLE001 - a doctor who faints helps nobody
            yield problem(name, f"the check itself failed: {type(error).__name__}", "please report it")
