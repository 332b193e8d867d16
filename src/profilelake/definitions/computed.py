"""`definitions/traits.yaml` and `definitions/audiences.yaml`: computed traits and audiences, with their tests.

Each may also be a folder of files: `definitions/traits/*.yaml`, `definitions/audiences/*.yaml`. Cases may stand
apart in `definitions/tests/*.yaml`. A key is one definition in all of them together.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from profilelake.definitions._cases import Case, read_cases
from profilelake.definitions._entries import Entry, Written, indented
from profilelake.definitions._yaml import Document, InvalidDefinition, Problem, Value
from profilelake.definitions.graph import linked
from profilelake.definitions.names import NOTHING, Names
from profilelake.errors import Invalid
from profilelake.semantics.conditions.check import check, cycles
from profilelake.semantics.conditions.pointing import pointed, position
from profilelake.semantics.conditions.tree import Root

__all__ = ["Case", "Computed", "InvalidDefinitions", "Written", "files", "load", "parse"]

SUFFIXES: Final = (".yaml", ".yml")
SECTIONS: Final = ("traits", "audiences", "entities", "tests")
"""Names of files and folders, and of the sections in them; `tests` may stand in each file."""
GRAPH: Final = ("data_graph", "profile")
"""What else the file of entities says: the version of its form, and how profiles are linked."""
FILES_MAX: Final = 1_000
DEFINITIONS_MAX: Final = 1_000
LEVELS_MAX: Final = 160
"""Levels of YAML in one file: a condition has 32, and each may take a few."""


class InvalidDefinitions(Invalid):
    """Files of definitions that cannot be used, and all that is wrong with each of them."""

    def __init__(self, files: Iterable[InvalidDefinition]) -> None:
        self.files = tuple(files)
        super().__init__("\n".join(str(one) for one in self.files))


@dataclass(frozen=True, slots=True)
class Computed:
    """What the files say together: definitions by key, where each stands, and the cases."""

    written: Mapping[str, Written] = field(default_factory=dict)
    cases: tuple[Case, ...] = ()
    files: tuple[str, ...] = ()
    told: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Warnings by file, each with its line."""

    @property
    def roots(self) -> dict[str, Root]:
        """The trees of those that are not SQL."""
        return {key: one.root for key, one in self.written.items() if one.root is not None}

    @property
    def warnings(self) -> list[str]:
        """What people should know, each with its file and line."""
        return [f"{name}: {told}" for name, each in self.told.items() for told in each]


def files(directory: Path) -> list[tuple[str, Path]]:
    """Return the files that say something about computed traits and audiences, each with its section."""
    found: list[tuple[str, Path]] = []
    for section in SECTIONS:
        alone = [directory / f"{section}{suffix}" for suffix in SUFFIXES]
        folder = sorted(path for path in (directory / section).glob("**/*") if path.suffix in SUFFIXES)
        found += [(section, path) for path in [*alone, *folder] if path.is_file()]
    if len(found) > FILES_MAX:
        raise Invalid(
            f"reading {directory}: there are {len(found):,} files, the most is {FILES_MAX:,}; join some"
        )
    return found


def load(directory: Path, names: Names = NOTHING, workspace: str = "default") -> Computed:
    """Return what the files of a folder of definitions say.

    `names` are the events, properties and traits that are known, to warn of those that are not. `workspace` is
    the one whose linked tables entities name.

    Raises:
        InvalidDefinitions: they cannot be used; the error names everything that is wrong.
    """
    texts = []
    for section, path in files(directory):
        name = path.relative_to(directory.parent).as_posix()
        texts.append((section, _text(path, name), name))
    return _read(texts, names, workspace)


def parse(
    text: str, section: str = "audiences", name: str = "the definitions", workspace: str = "default"
) -> Computed:
    """Return what a text says; `section` is what its file would be called.

    Raises:
        InvalidDefinitions: it cannot be used; the error names everything that is wrong.
    """
    return _read([(section, text, name)], NOTHING, workspace)


def _text(path: Path, name: str) -> str | InvalidDefinition:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problem = Problem(line, "", f"byte {error.start} is not UTF-8; save the file as UTF-8")
        return InvalidDefinition(name, [problem])


def _read(
    texts: Iterable[tuple[str, str | InvalidDefinition, str]], names: Names, workspace: str
) -> Computed:
    opened, wrong = _opened(texts)
    written: dict[str, Written] = {}
    for file in opened:
        for section, entries in file.sections.items():
            tables = linked(file.document, entries, file.profile, workspace) if section == "entities" else {}
            for key, value in entries.items():
                entry = Entry(file.document, section, key, value, file.document.name, tables.get(key))
                one = entry.read()
                if key in written:
                    first = written[key]
                    where = f"{first.definition.managed_by} line {first.line}"
                    file.document.refuse(
                        value, f"{where} defines {key} too; give one another key", named=False
                    )
                elif one is not None:
                    written[key] = one
    documents = {file.document.name: file.document for file in opened}
    told = _check_sense(written, documents, names)
    _refuse_circles(written, documents)
    cases = tuple(case for file in opened for case in _cases(file))
    wrong += [InvalidDefinition(name, one.problems) for name, one in documents.items() if one.problems]
    if len(written) > DEFINITIONS_MAX:
        raise Invalid(f"reading definitions: there are {len(written):,}, the most is {DEFINITIONS_MAX:,}")
    if wrong:
        raise InvalidDefinitions(wrong)
    return Computed(written, cases, tuple(documents), told)


def _check_sense(
    written: Mapping[str, Written], documents: Mapping[str, Document], names: Names
) -> dict[str, tuple[str, ...]]:
    """Refuse what can be read but makes no sense; return what else should be told, by file."""
    told: dict[str, tuple[str, ...]] = {}
    known = {
        target: names.known(target, [one.definition for one in written.values()])
        for target in ("users", "accounts")
    }
    for one in written.values():
        definition, root, name = one.definition, one.root, one.definition.managed_by
        if root is None:
            continue
        kind: Literal["audience", "trait"] = "audience" if definition.kind == "audience" else "trait"
        for finding in check(root, kind=kind, target=definition.target, known=known[definition.target]):
            line, shown = one.line, finding.message
            if one.said.text is not None and finding.span is not None:
                text = one.said.text.strip()
                place, column = position(text, finding.span[0])
                line = one.said.line_of_text(place - 1)
                shown = indented(f"column {column}: {finding.message}\n{pointed(text, finding.span)}")
            if finding.severity == "error":
                documents[name].refuse_at(line, one.said.key, shown)
            else:
                told[name] = (*told.get(name, ()), f"line {line}: {one.said.key}: {shown}")
    return told


@dataclass(slots=True)
class _File:
    document: Document
    sections: dict[str, dict[str, Value]]
    tests: Value | None
    profile: Value | None


def _opened(
    texts: Iterable[tuple[str, str | InvalidDefinition, str]],
) -> tuple[list[_File], list[InvalidDefinition]]:
    """Return the files as far as they are YAML, and what is wrong with the others."""
    opened: list[_File] = []
    wrong: list[InvalidDefinition] = []
    for section, text, name in texts:
        if isinstance(text, InvalidDefinition):
            wrong.append(text)
            continue
        document = Document(name, levels_max=LEVELS_MAX)
        try:
            root = document.root(text)
        except InvalidDefinition as error:
            wrong.append(error)
            continue
        known = tuple(dict.fromkeys((section, "tests", *(GRAPH if section == "entities" else ()))))
        found = {} if root is None else document.entries(root, known)
        sections = {part: document.entries(value) for part, value in found.items() if part in SECTIONS[:-1]}
        if "profile" in found:
            sections.setdefault("entities", {})  # its relationships are to lead somewhere
        opened.append(_File(document, sections, found.get("tests"), found.get("profile")))
    return opened, wrong


def _cases(file: _File) -> Iterator[Case]:
    if file.tests is not None and not file.tests.empty:
        yield from read_cases(file.document, file.tests)


def _refuse_circles(written: Mapping[str, Written], documents: Mapping[str, Document]) -> None:
    roots = {key: one.root for key, one in written.items() if one.root is not None}
    for circle in cycles(roots):
        one = written[circle[0]]
        told = " -> ".join([*circle, circle[0]])
        documents[one.definition.managed_by].refuse_at(
            one.line, f"{circle[0]}", f"definitions read each other in a circle: {told}; break it"
        )
