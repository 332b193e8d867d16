"""Which engine the settings choose. Spark is loaded only when it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from profilelake.engines.embedded import THREADS, EmbeddedEngine
from profilelake.engines.engine import Engine
from profilelake.errors import Invalid
from profilelake.settings import EngineSettings

EMBEDDED: Final = ("", "embedded")


@dataclass(frozen=True, slots=True)
class Places:
    """Folders of this machine that engines use."""

    scratch: Path
    jars: Path

    @classmethod
    def of(cls, options: EngineSettings, directory: Path) -> "Places":
        """Return the folders of a data directory, where settings name no others."""
        return cls(
            scratch=Path(options.scratch) if options.scratch else directory / "run" / "engine",
            jars=Path(options.jars) if options.jars else directory / "jars",
        )


def embedded(options: EngineSettings) -> bool:
    """Tell whether plans run on this machine, without Spark."""
    return options.url in EMBEDDED


def engine_of(
    options: EngineSettings, directory: Path, progress: Callable[[Any], None] = lambda _: None
) -> Engine:
    """Return the engine that `options.url` names; close it when done.

    `progress` is called twice a second or so with an `engines.distributed.Progress` while a cluster works.

    Raises:
        Invalid: the URL names nothing, or Spark is not installed.
        Unavailable: the cluster cannot be reached.
    """
    places = Places.of(options, directory)
    if embedded(options):
        return EmbeddedEngine(places.scratch, options.tasks or THREADS)
    if find_spec("pyspark") is None:
        raise Invalid("running on Spark: pyspark is not installed; pip install 'profilelake[spark]'")
    session = import_module("profilelake.engines.session")
    engine: Engine = session.open_engine(options, places.scratch, places.jars, progress)
    return engine
