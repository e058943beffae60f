"""Singer's side: schemas, catalog, selection, messages and state. Makes no requests."""
