"""Migrations: the steps that bring a controller's database forward; Alembic runs them, and never backward."""
