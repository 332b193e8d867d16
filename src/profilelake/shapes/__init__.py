"""Which shapes events have had: what was sent under which name and type, and since when.

Events are looked at when they are published, never when they are collected: nothing waits for it, and nothing
is refused, changed or dropped because of it.
"""
