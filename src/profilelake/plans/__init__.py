"""Batch plans over whole lakes, written once for every engine.

A plan is a line of steps (`engines.jobs`), each of which an engine runs; what tasks compute are the same
Arrow functions and kernels that the live pipeline uses. Results are files that one process commits.
"""
