"""Runs the stages: micro-batches of facts into state, state into tables.

The only writer of state and lake. One transaction per micro-batch holds what it changed, how far
the log was read, and what the lake still has to be told; after a crash the rest follows from that.
"""
