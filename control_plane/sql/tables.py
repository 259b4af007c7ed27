"""The tables. Migrations make them; this is what queries are written against (a test holds both together).

Lists inside a row (selectors, DNS names …) are JSON text: they are read whole, never searched by SQL, since
questions are answered by the index in memory. Serial numbers are hex text: they exceed 64 bits.
"""

from sqlalchemy import Boolean, Column, Index, Integer, LargeBinary, MetaData, Table, Text

metadata = MetaData()

# One row: the number of the last change, incremented inside each write transaction, hence gapless; and the
# name of the log, another one at each start of the server.
change_head = Table(
    "change_head",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sequence", Integer, nullable=False),
    Column("log", Text, nullable=False, server_default=""),
)

changes = Table(
    "changes",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),  # entry, agent, bundle, authority, policy, quarantine
    Column("key", Text, nullable=False),
    Index("changes_by_key", "kind", "key"),
)

entries = Table(
    "entries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key_digest", LargeBinary, nullable=False, unique=True),  # SHA-256 of ID, parent and selectors
    Column("spiffe_id", Text, nullable=False),
    Column("parent_id", Text, nullable=False),
    Column("selectors", Text, nullable=False),
    Column("x509_svid_ttl_seconds", Integer, nullable=False),
    Column("jwt_svid_ttl_seconds", Integer, nullable=False),
    Column("federates_with", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("dns_names", Text, nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("downstream", Boolean, nullable=False),
    Column("store_svid", Boolean, nullable=False),
    Column("expires_at", Integer, nullable=False, index=True),
    Column("priority", Integer, nullable=False),
    Column("disable_x509_svid_prefetch", Boolean, nullable=False),
    Column("jwt_svid_include_jti", Boolean, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("created_at", Integer, nullable=False),
)

agents = Table(
    "agents",
    metadata,
    Column("id", Text, primary_key=True),
    Column("attestation_type", Text, nullable=False),
    Column("selectors", Text, nullable=False),
    Column("serial", Text, nullable=False),
    Column("expires_at", Integer, nullable=False),
    Column("new_serial", Text, nullable=False),
    Column("new_expires_at", Integer, nullable=False),
    Column("banned", Boolean, nullable=False),
    Column("can_reattest", Boolean, nullable=False),
    Column("version", Text, nullable=False),
    Column("attested_at", Integer, nullable=False),
    Column("bundle_sequence", Integer, nullable=False),
)

join_tokens = Table(
    "join_tokens",
    metadata,
    Column("digest", LargeBinary, primary_key=True),  # SHA-256; the token itself is never stored
    Column("expires_at", Integer, nullable=False),
)

bundles = Table(
    "bundles",
    metadata,
    Column("trust_domain", Text, primary_key=True),  # our own name holds the additions to our own bundle
    Column("document", Text, nullable=False),
    Column("sequence", Integer, nullable=False),
)

authority_state = Table(
    "authority_state",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("document", Text, nullable=False),
)

# One row: grows with each change of `quarantine`.
quarantine_head = Table(
    "quarantine_head",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("trace", Text, nullable=False, server_default=""),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("spiffe_id", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("at", Integer, nullable=False),
)

policy_keys = Table(
    "policy_keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("retired", Boolean, nullable=False),
)

# A row is written once and never changed.
policy_versions = Table(
    "policy_versions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("digest", Text, nullable=False),
    Column("content_digest", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("key_id", Text, nullable=False),
)

policy_steps = Table(
    "policy_steps",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
)

# The payload of what is no longer in force is dropped: it follows from version and assignment.
policy_assignments = Table(
    "policy_assignments",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("percent", Integer, nullable=False),
    Column("cause", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Integer, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("trace", Text, nullable=False, server_default=""),
)

# Answers of changes that were asked for under a key, so that asking again changes nothing.
idempotency = Table(
    "idempotency",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_digest", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("answer", Text, nullable=False),
    Column("at", Integer, nullable=False, index=True),
)

# What agents report while a canary runs; rows of earlier canaries go with the first report of the next.
decision_reports = Table(
    "decision_reports",
    metadata,
    Column("canary", Integer, primary_key=True, autoincrement=False),
    Column("agent_id", Text, primary_key=True),
    Column("in_canary", Boolean, nullable=False),
    Column("requests", Integer, nullable=False),
    Column("denied", Integer, nullable=False),
    Column("requests_before", Integer, nullable=False),
    Column("denied_before", Integer, nullable=False),
    Column("worst", Text, nullable=False),
)
