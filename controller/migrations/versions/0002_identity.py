"""The gateways' identity: the authority, join tokens, enrolments, certificates and their revocation."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

#: Grows by itself in both dialects, and in SQLite is never given twice.
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(  # one row: all replicas on a database are of one authority
        "authority",
        sa.Column("fingerprint", sa.Text, primary_key=True),  # SHA-256 of the certificate, hexadecimal
        sa.Column("certificate", sa.Text, nullable=False),  # PEM
        sa.Column("created_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "join_token",
        sa.Column("id", sa.Text, primary_key=True),  # may be logged
        sa.Column("hash", sa.LargeBinary, nullable=False),  # SHA-256 of the secret, which nobody keeps
        sa.Column("park", sa.Text, nullable=False),
        sa.Column("uses", sa.Integer, nullable=False),
        sa.Column("used", sa.Integer, nullable=False),
        sa.Column("approve", sa.Boolean, nullable=False),  # an operator says yes to each gateway
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("revoked_ms", sa.BigInteger),
        sa.Column("revoked_by", sa.Text, nullable=False),
    )
    op.create_table(
        "enrolment",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("park", sa.Text, nullable=False),
        sa.Column("gateway", sa.Text, nullable=False),
        sa.Column("key_hash", sa.Text, nullable=False),  # SHA-256 of the public key, hexadecimal
        sa.Column("request", sa.Text, nullable=False),  # PKCS #10, hexadecimal
        sa.Column("peer", sa.Text, nullable=False),
        sa.Column("requested_ms", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),  # pending, issued or denied
        sa.Column("decided_ms", sa.BigInteger),
        sa.Column("decided_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("serial", sa.Text, nullable=False),  # of the certificate that was issued
        sa.UniqueConstraint("token", "key_hash", name="enrolment_once"),
        sqlite_autoincrement=True,
    )
    op.create_index("enrolment_state", "enrolment", ["state", "park", "gateway"])
    op.create_table(
        "gateway_identity",
        sa.Column("park", sa.Text, primary_key=True),
        sa.Column("gateway", sa.Text, primary_key=True),
        sa.Column("enrolled_ms", sa.BigInteger, nullable=False),
        sa.Column("replace_until_ms", sa.BigInteger),  # until then another box may take the name
        sa.Column("revoked_ms", sa.BigInteger),
        sa.Column("revoked_by", sa.Text, nullable=False),
        sa.Column("revoked_reason", sa.Text, nullable=False),
    )
    op.create_table(
        "gateway_certificate",
        sa.Column("serial", sa.Text, primary_key=True),  # hexadecimal
        sa.Column("park", sa.Text, nullable=False),
        sa.Column("gateway", sa.Text, nullable=False),
        sa.Column("key_hash", sa.Text, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),  # enrolled or renewed
        sa.Column("issued_ms", sa.BigInteger, nullable=False),
        sa.Column("not_after_ms", sa.BigInteger, nullable=False),
        sa.Column("certificate", sa.Text, nullable=False),  # PEM
        sa.Column("revoked_ms", sa.BigInteger),
        sa.Column("revoked_reason", sa.Text, nullable=False),
    )
    op.create_index("gateway_certificate_gateway", "gateway_certificate", ["park", "gateway", "issued_ms"])
    op.create_index("gateway_certificate_revoked", "gateway_certificate", ["revoked_ms"])
