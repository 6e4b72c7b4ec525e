"""Planning before any request: validation, limits, token counts, packing, splitting and the plan. No I/O."""
