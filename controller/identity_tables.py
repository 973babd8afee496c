"""Identity tables: the gateways' identity as it stands in the database; migration 0002 makes them."""

from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, Table, Text

from parkfleet.controller.database import metadata

authority = Table(
    "authority",
    metadata,
    Column("fingerprint", Text, primary_key=True),
    Column("certificate", Text),
    Column("created_ms", BigInteger),
)

join_token = Table(
    "join_token",
    metadata,
    Column("id", Text, primary_key=True),
    Column("hash", LargeBinary),
    Column("park", Text),
    Column("uses", Integer),
    Column("used", Integer),
    Column("approve", Boolean),
    Column("created_ms", BigInteger),
    Column("expires_ms", BigInteger),
    Column("author", Text),
    Column("reason", Text),
    Column("revoked_ms", BigInteger),
    Column("revoked_by", Text),
)

enrolment = Table(
    "enrolment",
    metadata,
    Column("number", BigInteger, primary_key=True),
    Column("token", Text),
    Column("park", Text),
    Column("gateway", Text),
    Column("key_hash", Text),
    Column("request", Text),
    Column("peer", Text),
    Column("requested_ms", BigInteger),
    Column("state", Text),
    Column("decided_ms", BigInteger),
    Column("decided_by", Text),
    Column("reason", Text),
    Column("serial", Text),
)

gateway_identity = Table(
    "gateway_identity",
    metadata,
    Column("park", Text, primary_key=True),
    Column("gateway", Text, primary_key=True),
    Column("enrolled_ms", BigInteger),
    Column("replace_until_ms", BigInteger),
    Column("revoked_ms", BigInteger),
    Column("revoked_by", Text),
    Column("revoked_reason", Text),
)

gateway_certificate = Table(
    "gateway_certificate",
    metadata,
    Column("serial", Text, primary_key=True),
    Column("park", Text),
    Column("gateway", Text),
    Column("key_hash", Text),
    Column("cause", Text),
    Column("issued_ms", BigInteger),
    Column("not_after_ms", BigInteger),
    Column("certificate", Text),
    Column("revoked_ms", BigInteger),
    Column("revoked_reason", Text),
)
