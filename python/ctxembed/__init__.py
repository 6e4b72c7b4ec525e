"""ctxembed."""
