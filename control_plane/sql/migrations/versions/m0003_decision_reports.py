"""What agents report of their decisions while a canary runs."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the table."""
    op.create_table(
        "decision_reports",
        sa.Column("canary", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("agent_id", sa.Text(), primary_key=True),
        sa.Column("in_canary", sa.Boolean(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("denied", sa.Integer(), nullable=False),
        sa.Column("requests_before", sa.Integer(), nullable=False),
        sa.Column("denied_before", sa.Integer(), nullable=False),
        sa.Column("worst", sa.Text(), nullable=False),
    )
