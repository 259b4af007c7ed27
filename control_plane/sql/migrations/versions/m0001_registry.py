"""The registry: entries, agents, join tokens, bundles, authority state and the change log."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the tables. They are written out so that later changes of `tables` don't change history."""
    op.create_table(
        "change_head",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("sequence", sa.Integer(), nullable=False),
    )
    op.execute("INSERT INTO change_head (id, sequence) VALUES (1, 0)")
    op.create_table(
        "changes",
        sa.Column("sequence", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
    )
    op.create_index("changes_by_key", "changes", ["kind", "key"])
    op.create_table(
        "entries",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("key_digest", sa.LargeBinary(), nullable=False, unique=True),
        sa.Column("spiffe_id", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.Text(), nullable=False),
        sa.Column("selectors", sa.Text(), nullable=False),
        sa.Column("x509_svid_ttl_seconds", sa.Integer(), nullable=False),
        sa.Column("jwt_svid_ttl_seconds", sa.Integer(), nullable=False),
        sa.Column("federates_with", sa.Text(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("dns_names", sa.Text(), nullable=False),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.Column("downstream", sa.Boolean(), nullable=False),
        sa.Column("store_svid", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("disable_x509_svid_prefetch", sa.Boolean(), nullable=False),
        sa.Column("jwt_svid_include_jti", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
    )
    op.create_index("ix_entries_expires_at", "entries", ["expires_at"])
    op.create_table(
        "agents",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("attestation_type", sa.Text(), nullable=False),
        sa.Column("selectors", sa.Text(), nullable=False),
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.Integer(), nullable=False),
        sa.Column("new_serial", sa.Text(), nullable=False),
        sa.Column("new_expires_at", sa.Integer(), nullable=False),
        sa.Column("banned", sa.Boolean(), nullable=False),
        sa.Column("can_reattest", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("attested_at", sa.Integer(), nullable=False),
        sa.Column("bundle_sequence", sa.Integer(), nullable=False),
    )
    op.create_table(
        "join_tokens",
        sa.Column("digest", sa.LargeBinary(), primary_key=True),
        sa.Column("expires_at", sa.Integer(), nullable=False),
    )
    op.create_table(
        "bundles",
        sa.Column("trust_domain", sa.Text(), primary_key=True),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
    )
    op.create_table(
        "authority_state",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
    )
