"""Pure functions from documents to rows. Knows nothing of HTTP, Singer, stdout or state."""
