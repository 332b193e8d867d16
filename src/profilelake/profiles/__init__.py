"""Stage 2: events folded into profiles.

Trait writes hang on identifier sets; a profile is the last-write-wins join over its sets, so merges
and splits aggregate again and migrate nothing.
"""
