"""Operators' certificates: the other way to show who one is."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "operator_certificate",
        sa.Column("serial", sa.Text, primary_key=True),  # hexadecimal
        sa.Column("user_name", sa.Text, sa.ForeignKey("operator_user.name"), nullable=False),
        sa.Column("issued_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sa.Column("revoked_ms", sa.BigInteger),
    )
