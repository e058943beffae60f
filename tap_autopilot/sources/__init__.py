"""Where documents come from, page by page. Writes no messages."""
