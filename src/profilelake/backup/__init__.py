"""Backups of a data directory, taken beside a running server, and their way back.

`capture` finds what belongs to one moment, `take` puts it into a place for backups, `restore` makes a
directory of it. A backup is a manifest: a file that names all others by what they contain (`pool`), so
what two backups share is stored once, and a backup is there when its manifest is.
"""
