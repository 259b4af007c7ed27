"""Runs migrations on the connection that `sql.database` hands over; there is no other way to run them."""

from alembic import context

from control_plane.sql.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
