"""Check right before bytes are deleted whether a run, a model or a registered version still needs them."""
