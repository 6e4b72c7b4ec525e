"""Measurements against peers: ``python -m benches.run``, or ``pytest benches --benchmark-disable`` to check results."""
