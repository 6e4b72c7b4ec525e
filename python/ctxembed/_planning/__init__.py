"""What is known before anything is sent: validation, limits, token counts, packing, splitting, the plan."""
