"""Questions in SQL: typed on the command line, or sent by others over HTTP.

On the command line the query runs in the process, and with the rights, of whoever typed it. What others
send runs in a worker that is used once, inside a jail of the kernel: `gate` says what may be asked,
`inputs` what is handed over, `jail` what the worker may do at all.
"""
