"""What a collector's store tells the tap: its events, their rows, and which polled events they are.

Knows nothing of HTTP or stdout.
"""
