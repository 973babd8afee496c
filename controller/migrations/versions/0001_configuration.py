"""The fleet's configuration: changes of layers and secrets, what gateways reported."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

#: Grows by itself in both dialects, and in SQLite is never given twice.
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "config_change",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("subject", sa.Text, nullable=False),  # region/…, park/…, label/…, gateway/…, or secret/NAME
        sa.Column("tree", sa.Text, nullable=False),  # JSON; of a secret: whether it is there
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("config_change_subject", "config_change", ["subject", "number"])
    op.create_table(
        "config_secret",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("box", sa.LargeBinary, nullable=False),  # encrypted
    )
    op.create_table(
        "config_report",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("park", sa.Text, nullable=False),
        sa.Column("gateway", sa.Text, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("report", sa.Text, nullable=False),  # JSON
    )
    op.create_index("config_report_gateway", "config_report", ["park", "gateway", "at_ms"])
