"""Pure functions from a document to a row. Knows nothing of HTTP, Singer, stdout or state."""
