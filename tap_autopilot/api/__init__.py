"""Talks to Autopilot: requests, retries, pace, and what a response says.

Knows nothing of Singer, rows or state.
"""
