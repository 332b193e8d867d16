"""Stage 0: from log records to accepted events, each exactly once.

The only reader of the event log: parse, dead letters, de-duplication. It needs no identity state.
"""
