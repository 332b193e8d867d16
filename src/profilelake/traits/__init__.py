"""What definitions are computed from: their steps, folded from events into partials and joined over a profile.

One columnar form serves live and batch. Who is told of what comes out is the business of `audiences`.
"""
