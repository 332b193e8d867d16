"""The one place where parts are put together: the processes of `profilelake serve`, and what commands do whole.

Each process imports only what it runs, so that a collecting process carries no query engine and
starts at once; these late imports and those of the command line are the only ones in the project.
"""
