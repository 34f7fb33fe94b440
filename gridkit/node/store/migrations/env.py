"""What Alembic runs to begin: on the connection, and in the transaction, that it is handed."""

from __future__ import annotations

from alembic import context

from gridkit.node.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
