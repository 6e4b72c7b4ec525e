"""Jobs over many documents: reading input."""
