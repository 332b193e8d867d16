"""What the compiled scan recognises under some identity rules, as arrays."""

from dataclasses import dataclass
from typing import Final, Self, get_args

import numpy as np
import numpy.typing as npt

from profilelake.kernels import json_tape
from profilelake.kernels.json_tape import Ints, Words
from profilelake.landing._scan_words import IDENTIFIER_TYPES, WORDS
from profilelake.semantics import json_text
from profilelake.semantics.extraction import PATH_ROOTS, PATH_STEPS_MAX, custom_keys
from profilelake.semantics.identifiers import normaliser_of
from profilelake.semantics.rules import COLLECTIONS, IdentityRules, Normaliser

_CUSTOM_KEYS_MAX: Final = 3
"""Spellings of the key of a custom type."""
_NORMALISERS: Final[tuple[Normaliser, ...]] = get_args(Normaliser)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words are known by number: `known` finds them, `starts` says where each begins in `text`.

    `custom` has a row per custom type: its word, collection, and the words of its keys. `paths` has a row
    per path, in the order of the rules: word of the type, collection, part in which the path begins,
    and the words of its further steps. -1 stands for none. `normalisers` says, by collection and word, how
    values of a type are written.
    """

    known: Words
    starts: Ints
    custom: Ints
    paths: Ints
    normalisers: Ints
    text: bytes

    @classmethod
    def of(cls, rules: IdentityRules) -> Self:
        """Return the vocabulary of some rules. `text` begins the scan's text buffer."""
        custom = [(rule, custom_keys(rule.type)) for rule in rules.types if rule.custom]
        paths = [(rule, _steps(path)) for rule in rules.types for path in rule.paths]
        spelled = [word for rule, keys in custom for word in (rule.type, *keys)]
        spelled += [word for rule, (_, *steps) in paths for word in (rule.type, *steps)]
        spelled += [rule.type for rule in rules.types if rule.normaliser is not None]
        words = list(dict.fromkeys([*WORDS, *spelled]))
        number = {word: place for place, word in enumerate(words)}
        custom_rows = _table(len(custom), 2 + _CUSTOM_KEYS_MAX)
        for row, (rule, keys) in zip(custom_rows, custom, strict=True):
            found = (number[rule.type], COLLECTIONS.index(rule.collection), *(number[key] for key in keys))
            row[: len(found)] = found
        path_rows = _table(len(paths), 2 + PATH_STEPS_MAX)
        for row, (rule, (root, *steps)) in zip(path_rows, paths, strict=True):
            place = (number[rule.type], COLLECTIONS.index(rule.collection), PATH_ROOTS.index(root))
            row[: 3 + len(steps)] = (*place, *(number[step] for step in steps))
        normalisers = np.zeros((len(COLLECTIONS), len(words)), np.int32)
        for type in {*IDENTIFIER_TYPES, *(rule.type for rule in rules.types)} & number.keys():
            for row, collection in zip(normalisers, COLLECTIONS, strict=True):
                row[number[type]] = _NORMALISERS.index(normaliser_of(rules, collection, type))
        return cls(
            known=json_tape.vocabulary(words),
            starts=np.cumsum([0, *(len(word.encode()) for word in words)]).astype(np.int32),
            custom=custom_rows,
            paths=path_rows,
            normalisers=normalisers,
            text="".join(words).encode() + b"{}",
        )


def _table(rows: int, columns: int) -> npt.NDArray[np.int32]:
    return np.full((rows, columns), -1, np.int32)


def _steps(path: str) -> list[str]:
    """Return the steps of a path, as keys stand in canonical text."""
    return [json_text.dump(step)[1:-1] for step in path.split(".")]
