"""How well a collection is searched: judged queries, measures, the grid of variants, and what context is worth."""
