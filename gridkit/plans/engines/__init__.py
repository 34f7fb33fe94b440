"""Plans, executed."""
