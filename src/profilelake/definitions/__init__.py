"""What an installation is to do, in YAML files that a person writes: read, checked, and written back.

Nothing here puts anything in force. All that is wrong with a file is told at once, with the line.
"""
