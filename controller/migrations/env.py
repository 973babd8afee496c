"""Env: what Alembic runs; Database gives it its connection."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transaction_per_migration=False)
context.run_migrations()
