"""The plain reference of every rule: values in, values out.

No I/O, no clock, no randomness, no engine (an import contract checks it). It is slow and simple on
purpose; the fast forms elsewhere are held to it by the case files in `tests/spec`.
"""
