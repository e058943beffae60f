"""What a collector's store tells the tap: its events, their rows, and the polled events they match.

Knows nothing of HTTP or stdout.
"""
