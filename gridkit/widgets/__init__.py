"""What a notebook shows: pictures, tables, live panels. Knows nothing of sessions, nodes or torch."""
