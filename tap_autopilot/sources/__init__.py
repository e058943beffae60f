"""Where documents come from, page by page. Knows nothing of Singer or stdout."""
