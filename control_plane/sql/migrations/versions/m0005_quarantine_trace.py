"""The trace context of the request that changed the quarantine last."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column."""
    op.add_column("quarantine_head", sa.Column("trace", sa.Text(), nullable=False, server_default=""))
