"""The name of the change log, which tells its numbers from those before a start of the server."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column."""
    op.add_column("change_head", sa.Column("log", sa.Text(), nullable=False, server_default=""))
