"""Measurements against peers: ``python -m benches.run``, or ``pytest benches --benchmark-disable`` for answers only."""
