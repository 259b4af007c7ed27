"""The trace context of the request that made an assignment."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column."""
    op.add_column("policy_assignments", sa.Column("trace", sa.Text(), nullable=False, server_default=""))
