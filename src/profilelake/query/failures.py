"""What can be wrong with a query, each with a code that stays, and where in its text."""

import json
import re
from typing import Final, Literal, TypeAlias

import msgspec

Code: TypeAlias = Literal[
    "invalid_sql",
    "one_statement",
    "not_a_query",
    "not_allowed",
    "table_not_found",
    "column_not_found",
    "invalid_query",
    "invalid_value",
    "invalid_parameters",
    "too_complex",
    "memory_limit",
    "row_limit",
    "byte_limit",
    "timeout",
    "cancelled",
    "worker_ended",
    "result_format",
]
MESSAGE_CHARACTERS_MAX: Final = 1_000


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a query has no result; `line` and `column` count from 1, where the place is known."""

    code: Code
    message: str
    line: int | None = None
    column: int | None = None


class Failed(Exception):
    """Raised with the failure of a query."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def failed(code: Code, message: str, query: str = "", offset: int | None = None) -> Failed:
    """Return the exception of a failure at a byte offset of the query."""
    line, column = (None, None) if offset is None else _place(query, offset)
    return Failed(Failure(code, message[:MESSAGE_CHARACTERS_MAX], line, column))


def _place(query: str, offset: int) -> tuple[int | None, int | None]:
    data = query.encode()
    if not 0 <= offset <= len(data):
        return None, None
    before = data[:offset].decode(errors="replace")
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


_BY_CLASS: Final[dict[str, Code]] = {
    "Parser": "invalid_sql",
    "Syntax": "invalid_sql",
    "Permission": "not_allowed",
    "Conversion": "invalid_value",
    "Out of Range": "invalid_value",
    "Invalid Input": "invalid_value",
    "Mismatch Type": "invalid_value",
    "Interrupt": "cancelled",
    "IO": "not_allowed",
}
"""Codes by the class of the engine's error; what is not here is `invalid_query`."""
_DEPTH: Final = re.compile(r"expression depth|recursion|too deep|stack", re.IGNORECASE)
_LARGE: Final = re.compile("maximum total string size")
_PARAMETERS: Final = re.compile(r"following parameters|count mismatch|positional parameters", re.IGNORECASE)
_PLACES: Final = re.compile(r"/proc/self/fd/\d+|/[\w.-]+(?:/[\w.-]+)+")


def of_engine(error: Exception, query: str, shift: int = 0) -> Failed:
    """Return what an error of the engine means, which it gives as JSON after the name of its class.

    `shift` is where in `query` the text begins that the engine was given.
    """
    text = str(error)
    brace = text.find("{")
    try:
        told = json.loads(text[brace:])
        message, kind = str(told["exception_message"]), str(told["exception_type"])
    except (ValueError, KeyError, TypeError):
        told, message, kind = {}, text, type(error).__name__.removesuffix("Exception")
    if kind == "Out of Memory" or isinstance(error, MemoryError) or "bad_alloc" in message:
        return failed("memory_limit", "the query needs more memory than it may have; narrow or aggregate it")
    if _LARGE.search(message):
        return failed("byte_limit", "one batch of the result has more than 2 GiB of text; select less")
    code: Code = _BY_CLASS.get(kind, "invalid_query")
    if kind == "Catalog" and told.get("type") == "Table":
        code = "table_not_found"
    elif told.get("error_subtype") == "COLUMN_NOT_FOUND":
        code = "column_not_found"
    elif _PARAMETERS.search(message):
        code = "invalid_parameters"
    elif _DEPTH.search(message):
        code = "too_complex"
    position = str(told.get("position", ""))
    offset = int(position) + shift if position.isdigit() and len(position) < 10 else None
    # Where files lie is nobody's business; the engine names them by descriptor at most.
    return failed(code, _PLACES.sub("a file", message), query, offset)
