"""Inputs that peers share, with their expected results. A case knows no peer."""
