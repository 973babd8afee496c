"""Operators: people, their grants, sessions and API tokens; tries to sign in; the audit log, which only grows."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Makes the tables, and what keeps the audit log as it is."""
    op.create_table(
        "operator_user",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("password", sa.Text, nullable=False),  # argon2id's own form, with salt and cost
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "operator_grant",
        sa.Column("user_name", sa.Text, sa.ForeignKey("operator_user.name"), primary_key=True),
        sa.Column("role", sa.Text, primary_key=True),
        sa.Column("scope", sa.Text, primary_key=True),
    )
    op.create_table(
        "operator_session",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("hash", sa.Text, nullable=False),  # SHA-256 of the secret, which is random
        sa.Column("user_name", sa.Text, sa.ForeignKey("operator_user.name"), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "api_token",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("user_name", sa.Text, sa.ForeignKey("operator_user.name"), nullable=False),
        sa.Column("grants", sa.Text, nullable=False),  # ROLE@SCOPE, separated by spaces
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sa.Column("revoked_ms", sa.BigInteger),
    )
    op.create_table(
        "failed_tries",
        sa.Column("subject", sa.Text, primary_key=True),  # account/NAME, peer/ADDRESS
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("last_ms", sa.BigInteger, nullable=False),
        sa.Column("until_ms", sa.BigInteger, nullable=False),  # no further try before
    )
    _audit()


def _audit() -> None:
    op.create_table(
        "audit_entry",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("actor", "via", "peer", "action", "target", "scope")),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("reason", "result", "detail")),
        sa.Column("begun_by", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("previous", "hash")),
    )
    op.create_index("audit_entry_begun_by", "audit_entry", ["begun_by"])
    if op.get_bind().dialect.name == "sqlite":
        refuse = "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
        op.execute(f"CREATE TRIGGER audit_entry_kept BEFORE UPDATE ON audit_entry {refuse}")
        op.execute(f"CREATE TRIGGER audit_entry_stays BEFORE DELETE ON audit_entry {refuse}")
        # INSERT OR REPLACE removes a row without asking the trigger above.
        behind = "WHEN NEW.number <= (SELECT max(number) FROM audit_entry)"
        op.execute(f"CREATE TRIGGER audit_entry_follows BEFORE INSERT ON audit_entry {behind} {refuse}")
        return
    op.execute(
        "CREATE FUNCTION audit_entry_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit log only grows'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_entry_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entry "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_entry_refuse()"
    )
