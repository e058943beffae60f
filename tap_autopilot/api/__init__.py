"""Talks to Autopilot: requests, retries, pace, and what an answer says.

Knows nothing of Singer, rows or state.
"""
