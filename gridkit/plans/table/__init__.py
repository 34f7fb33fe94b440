"""The operations that a plan may hold: schemas and shape rules, without torch."""
