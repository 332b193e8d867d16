"""Compiled loops over arrays. No I/O, no Python objects inside a loop, nothing of the rest of the project."""
