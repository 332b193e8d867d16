"""What may be wrong with an installation, found by looking: `profilelake doctor`.

Takes no lock, changes no file, and works whether the server runs or not. A check returns findings and
never stops the others; each finding that is not fine says what to do.
"""
