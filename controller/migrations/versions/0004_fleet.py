"""The fleet's state: gateways as they were seen last, and the replicas that have their sessions."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "fleet_gateway",
        sa.Column("park", sa.Text, primary_key=True),
        sa.Column("gateway", sa.Text, primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),  # of its newest session
        sa.Column("online", sa.Boolean, nullable=False),
        sa.Column("since_ms", sa.BigInteger, nullable=False),
        sa.Column("last_seen_ms", sa.BigInteger, nullable=False),
        sa.Column("peer", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("hello", sa.LargeBinary, nullable=False),  # protobuf
        sa.Column("beat", sa.LargeBinary),  # the last heartbeat without its lines
        sa.Column("lines", sa.LargeBinary, nullable=False),  # a heartbeat of the lines alone
        sa.Column("status", sa.LargeBinary),
        sa.Column("replica", sa.Text, nullable=False),  # that has, or had, the session
        sa.Column("writer", sa.Text, nullable=False),  # the replica that wrote the row
        sa.Column("seq", sa.BigInteger, nullable=False),  # the writer's number of that
    )
    op.create_index("fleet_gateway_seq", "fleet_gateway", ["writer", "seq"])
    op.create_table(
        "fleet_replica",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("beat", sa.BigInteger, nullable=False),  # grows while the replica lives
    )
    op.create_index("config_report_number", "config_report", ["park", "gateway", "number"])
