"""Bringing a data directory of an older format to the one this program reads, step by step.

Imports nothing of the parts that a step changes but what the step itself needs. Knows nothing of
servers: who calls `upgrade` owns the directory.
"""
