"""Online state: what identity and profiles know now, for look-ups in microseconds.

A projection of log and lake (`profilelake rebuild` makes it again), written by one process in one
transaction per micro-batch, read by any number of processes without locks.
"""
