"""Stage 1: which identifiers are one person.

Deterministic constrained resolution of identifier sets in position order. It rewrites no event: an
event belongs to its set, a set to its anchor, the anchor to its profile today.
"""
