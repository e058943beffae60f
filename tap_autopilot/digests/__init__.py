"""What the target has: for every table, the keys of its rows, and a digest of each row.

Knows nothing of HTTP, Singer or stdout. Here a row is just a key and some bytes.
"""
