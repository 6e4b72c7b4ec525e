"""Jobs that survive: reading input, ingestion into a store, budget, progress, signals."""
