"""What the target has of every table: the keys of its rows, and a digest of each.

Knows nothing of HTTP, Singer or stdout. A row is a key and some bytes here.
"""
