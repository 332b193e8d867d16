"""Going over a tree: its nodes in the order of the text, and what they read."""

from collections.abc import Iterator

from profilelake.semantics.conditions.tree import (
    And,
    Compare,
    Entities,
    Events,
    Items,
    Node,
    Not,
    Or,
    Reduce,
    Root,
    Trait,
    Users,
)


def children(node: Node) -> tuple[Node, ...]:
    """Return the nodes directly below a node, in the order of the text."""
    match node:
        case And(parts) | Or(parts):
            return parts
        case Not(of) | Users(of):
            return (of,)
        case Items(value, of):
            return (value, of)
        case Compare(value, _, operands):
            return (value, *operands)
        case Reduce(of, _, value):
            return (of,) if value is None else (of, value)
        case Events(where=where) | Entities(where=where):
            return () if where is None else (where,)
        case _:
            return ()


def walk(root: Node) -> Iterator[Node]:
    """Yield a node and all below it, each before what is below it, in the order of the text."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(children(node)))


def reads(root: Root) -> frozenset[str]:
    """Return the names of the traits that a definition asks for: audiences and computed traits among them."""
    return frozenset(node.path[0] for node in walk(root) if isinstance(node, Trait))


def events_of(root: Root) -> frozenset[str]:
    """Return the names of the events that a definition asks for."""
    return frozenset(node.name for node in walk(root) if isinstance(node, Events))


def entities_of(root: Root) -> frozenset[str]:
    """Return the slugs of the entities that a definition asks for."""
    return frozenset(node.slug for node in walk(root) if isinstance(node, Entities))
