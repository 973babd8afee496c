"""Fixtures that many tests share: real parts, started for the test and gone after it."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from parkfleet.controller.database import Database
from parkfleet.protocols.config import BrokerConfig
from parkfleet.simulators.broker import RunningBroker, mosquitto_path, running_broker
from parkfleet.simulators.proxy import LinkProxy
from tests.postgres import Postgres, PostgresMissingError, database_name


def pytest_configure() -> None:
    """Ctrl-C works in the processes we start, also when a shell started us in the background with it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile("unhurried", deadline=None)  # no test asserts a time
    settings.load_profile("unhurried")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI everything is installed: a skipped test there is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[RunningBroker]:
    """A broker of its own: mosquitto where it is installed (always in CI)."""
    folder = tmp_path / "broker"
    folder.mkdir()
    async with running_broker(folder) as running:
        yield running


@pytest.fixture
def mosquitto() -> None:
    """For tests of what only mosquitto can be set to do; it is always there in CI."""
    if mosquitto_path() is None:
        pytest.skip("mosquitto is not installed: sudo apt install mosquitto")


@pytest.fixture
async def link(broker: RunningBroker) -> AsyncIterator[LinkProxy]:
    """A link to the broker that can be cut."""
    async with LinkProxy("127.0.0.1", broker.port) as proxy:
        yield proxy


@pytest.fixture
def through_link(link: LinkProxy) -> BrokerConfig:
    """The broker as seen through the link."""
    return BrokerConfig(f"mqtt://127.0.0.1:{link.port}")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL for all tests; each makes databases of its own in it. One that stops it starts its own."""
    try:
        server = Postgres()
    except PostgresMissingError as error:
        pytest.skip(str(error))
    with server as running:
        yield running


@dataclass(frozen=True)
class DatabaseAt:
    """Where a test's database is."""

    url: str
    password: str | None = None

    async def open(self) -> Database:
        """Opens it; the test closes it."""
        return await Database.open(self.url, self.password)


@pytest.fixture
async def on_postgres(postgres: Postgres, request: pytest.FixtureRequest) -> DatabaseAt:
    """An empty database in PostgreSQL."""
    return DatabaseAt(await postgres.create(database_name(request.node.name)), postgres.password)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_at(request: pytest.FixtureRequest, tmp_path: Path) -> DatabaseAt:
    """An empty database, once of each kind."""
    if request.param == "sqlite":
        return DatabaseAt(f"sqlite:///{tmp_path}/controller.db")
    found: DatabaseAt = request.getfixturevalue("on_postgres")
    return found


@pytest.fixture
async def database(database_at: DatabaseAt) -> AsyncIterator[Database]:
    """It, open."""
    opened = await database_at.open()
    yield opened
    await opened.close()
