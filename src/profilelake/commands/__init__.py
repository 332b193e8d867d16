"""The command line, one module per group of commands. What they share is in `common`."""
