"""Singer's side: schemas, catalog, selection, messages and state. Knows nothing of HTTP."""
