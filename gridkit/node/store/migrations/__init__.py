"""How a database of an older gridkit becomes one of this (Alembic). `gridkit.node.store.schema` runs it.

A change to `tables.py` needs a step here: a file in `versions` whose `down_revision` is the last one's, and
`schema.NEWEST`. tests/node/test_schema.py compares and prints what is missing.
"""
