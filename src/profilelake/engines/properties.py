"""Properties of Spark on their way to a JVM: by a file that only this user can open, and that is on no disk.

`pyspark` puts what a session is built with on the command line of the JVM it starts, which everybody on the
machine reads.
"""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pyspark import SparkContext
from pyspark.find_spark_home import _find_spark_home

from profilelake.errors import Invalid

SUBMIT_ARGUMENTS: Final = "PYSPARK_SUBMIT_ARGS"
_FILE_ARGUMENT: Final = "--properties-file"
_DEFAULTS: Final = "spark-defaults.conf"
_ESCAPED: Final = re.compile(r"[^!-~]|[\\=:#!]")
"""What a file of Java properties would take for something else than itself."""


@contextmanager
def handed_over(properties: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """Let a session that is made meanwhile have these properties; yield those that its builder must be given.

    A JVM that is started reads them from a file, with those of the user's `spark-defaults.conf`, over which
    they win. One that runs already is given them over its socket, by the builder.

    Raises:
        Invalid: the file that the user's own arguments name cannot be read.
    """
    if getattr(SparkContext, "_gateway", None) is not None or "PYSPARK_GATEWAY_PORT" in os.environ:
        yield properties
        return
    given = os.environ.get(SUBMIT_ARGUMENTS)
    rest, named = _without_file(shlex.split("pyspark-shell" if given is None else given))
    content = f"{_defaults(named)}\n\n{as_java(properties)}".encode()
    # Nobody else can open it, and with this process it is gone, however that ends.
    descriptor = os.memfd_create("spark.properties")
    try:
        with open(descriptor, "wb", closefd=False) as sink:  # it has no path
            sink.write(content)
        arguments = [_FILE_ARGUMENT, f"/proc/{os.getpid()}/fd/{descriptor}", *rest]
        os.environ[SUBMIT_ARGUMENTS] = shlex.join(arguments)
        yield {}
    finally:
        os.close(descriptor)
        if given is None:
            os.environ.pop(SUBMIT_ARGUMENTS, None)
        else:
            os.environ[SUBMIT_ARGUMENTS] = given


def as_java(properties: Mapping[str, str]) -> str:
    """Return properties as lines that Java reads back as they are."""
    return "".join(f"{_escaped(name)}={_escaped(value)}\n" for name, value in properties.items())


def _escaped(text: str) -> str:
    # In units of UTF-16: that is what Java's escapes spell.
    def spelt(found: re.Match[str]) -> str:
        units = found.group().encode("utf-16-be", "surrogatepass")
        return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))

    return _ESCAPED.sub(spelt, text)


def _without_file(arguments: list[str]) -> tuple[list[str], Path | None]:
    """Return the user's arguments without the file of properties they name, and that file."""
    rest: list[str] = []
    named = None
    coming = iter(arguments)
    for argument in coming:
        if argument == _FILE_ARGUMENT:
            named = Path(next(coming, ""))
        elif argument.startswith(f"{_FILE_ARGUMENT}="):
            named = Path(argument.partition("=")[2])
        else:
            rest.append(argument)
    return rest, named


def _defaults(named: Path | None) -> str:
    """Return what Spark would have read: the file that is named, or the defaults of its folder, if there are any."""
    folder = os.environ.get("SPARK_CONF_DIR") or Path(_find_spark_home()) / "conf"
    path = named or Path(folder) / _DEFAULTS
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if named is None and isinstance(error, FileNotFoundError | NotADirectoryError):
            return ""
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise Invalid(
            f"starting Spark: reading {path}: {reason}; correct it, or {SUBMIT_ARGUMENTS}"
        ) from error
