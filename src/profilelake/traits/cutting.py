"""Cuts events down to what steps that keep them ask of them: a JSON object with the paths of the step alone."""

import json
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import TypeAlias

import numpy as np

from profilelake.kernels.json_paths import Longs
from profilelake.semantics.conditions.tree import Path
from profilelake.traits.found import Column
from profilelake.traits.happened import Happened
from profilelake.traits.matching import Matching
from profilelake.traits.partials import CutEvent
from profilelake.traits.steps import Step

_Tree: TypeAlias = "dict[str, _Tree | Column]"


def cut(
    happened: Happened, matching: Matching, name: str, step: Step, events: Longs, chosen: Longs
) -> list[CutEvent]:
    """Return some of the events of a name as a step keeps them, in their order."""
    properties = _objects(_tree(step.paths, matching.properties), chosen)
    context = _objects(_tree(step.context_paths, matching.context), chosen)
    times = happened.times[events[chosen]].tolist()
    sources = happened.sources(events[chosen])
    return list(map(CutEvent, times, repeat(name), sources, properties, context))


def _tree(paths: Sequence[Path], columns: Mapping[Path, Column]) -> _Tree:
    """Return paths as a tree of keys; below a path that is asked for itself nothing more is needed."""
    tree: _Tree = {}
    for path in sorted(paths):
        into = tree
        for key in path[:-1]:
            below = into.setdefault(json.dumps(key, ensure_ascii=False), {})
            if isinstance(below, Column):
                break
            into = below
        else:
            into.setdefault(json.dumps(path[-1], ensure_ascii=False), columns[path])
    return tree


def _objects(tree: _Tree, chosen: Longs) -> list[str]:
    """Return the JSON object of each chosen event; a member is spelt once per distinct value."""
    members = [_members(key, below, chosen) for key, below in tree.items()]
    if not members:
        return ["{}"] * len(chosen)
    return ["{" + ",".join(filter(None, said)) + "}" for said in zip(*members, strict=True)]


def _members(key: str, below: "_Tree | Column", chosen: Longs) -> list[str]:
    """Return a member of the object of each event, nothing where there is no value."""
    if not isinstance(below, Column):
        return ["" if said == "{}" else f"{key}:{said}" for said in _objects(below, chosen)]
    coded = below.all
    # Code -1, of an event without a value, is the last.
    spelt = np.array([*(f"{key}:{text}" for text in coded.texts), ""], dtype=object)
    members: list[str] = spelt[coded.codes[chosen]].tolist()
    return members
