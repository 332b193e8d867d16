"""Cuts events down to what steps that keep them ask of them: a JSON object with the paths of the step alone."""

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

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
    properties = _tree(step.paths, matching.properties)
    context = _tree(step.context_paths, matching.context)
    return [
        CutEvent(at, name, source, _object(properties, event), _object(context, event))
        for event, at, source in zip(
            chosen.tolist(),
            happened.times[events[chosen]].tolist(),
            happened.sources(events[chosen]),
            strict=True,
        )
    ]


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


def _object(tree: _Tree, event: int) -> str:
    members = []
    for key, below in tree.items():
        said = below.all.text(event) if isinstance(below, Column) else _object(below, event)
        if said is not None:
            members.append(f"{key}:{said}")
    return "{" + ",".join(members) + "}"
