"""SQL over the lake, for people.

On the command line only: the query runs in the process, and with the rights, of whoever typed it.
"""
