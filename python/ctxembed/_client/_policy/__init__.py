"""Policies of the client: retries, deadlines, hedging, rate and concurrency limits, with an injected clock."""
