"""Where batch plans run: this machine, or a cluster.

An engine knows units of work, rows that are brought together by key, and nothing of what they mean. Plans
(`profilelake.plans`) are written once against it.
"""
