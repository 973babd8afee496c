"""What comes from outside, of any shape: enrolment requests at the controller, answers at the box."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parkfleet.agent import identity as identity_module
from parkfleet.agent.enrolling import wished_name
from parkfleet.agent.identity import Enrolled, IdentityError, IdentityFolder
from parkfleet.controller.authority import Authority
from parkfleet.controller.checks import RefusedError, check_name
from parkfleet.controller.enrolment_service import application_of
from parkfleet.controller.identity_errors import IdentityError as Refused
from parkfleet.proto.enrolment_pb2 import EnrollRequest
from parkfleet.protocols import files
from tests.identity.conftest import Box

NOW = 1_790_000_000.0
AUTHORITY = Authority.new(NOW)
WHO = Enrolled("p1", "gw-01", "127.0.0.1:7443", "127.0.0.1:7444")

texts = st.one_of(st.text(max_size=100), st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}", fullmatch=True))


def certificate(box: Box) -> bytes:
    """For a box's key, PEM."""
    return AUTHORITY.client("p1/gw-01", box.key.public_key(), NOW, 1000.0).pem.encode()


@given(texts, st.binary(max_size=40), st.binary(max_size=100), texts, texts)
def test_application_of_any_request(token: str, secret: bytes, request: bytes, gateway: str, park: str) -> None:
    """It is refused, or its names are names and its secret has a secret's length."""
    message = EnrollRequest(token=token, secret=secret, request=request, gateway=gateway, park=park)
    try:
        found = application_of(message, "ipv4:10.0.0.1:1")
    except (Refused, RefusedError):
        return
    assert len(found.secret) == 20 and len(found.token) == 8
    check_name("gateway", found.gateway)


@given(st.binary(max_size=2000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_renewed_keeps_the_old_pair_whatever_is_given(tmp_path: Path, given_: bytes) -> None:
    """What is no certificate of our key is not kept."""
    box, folder = Box(), IdentityFolder(tmp_path / "identity")
    before = folder.keep(box.key_pem, certificate(box), AUTHORITY.pem, WHO)
    for answer in (given_, certificate(Box()), box.key_pem, certificate(box)[:-30] + given_):
        with pytest.raises(IdentityError, match="not of this gateway's key"):
            folder.renewed(answer)
    assert folder.credentials() == before
    assert {path.name for path in folder.folder.iterdir()} == {"ca.pem", "enrolled.json", "gateway.pem"}


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_are_told(tmp_path: Path, content: bytes) -> None:
    """Whatever stands in them."""
    box, folder = Box(), IdentityFolder(tmp_path / "identity")
    folder.keep(box.key_pem, certificate(box), AUTHORITY.pem, WHO)
    for name, read in (
        ("gateway.pem", folder.credentials),
        ("ca.pem", folder.credentials),
        ("enrolled.json", folder.enrolled),
    ):
        path = folder.folder / name
        good = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(IdentityError, match="is damaged"):
            read()
        path.write_bytes(good)


@given(st.text(max_size=100))
def test_wished_name_of_any_host_is_a_name(host: str) -> None:
    """The box asks for something that the controller can take."""
    check_name("gateway", wished_name("", "", host))


@pytest.mark.parametrize("step", range(1, 4))
def test_enrolment_broken_off_at_any_write_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Power fails before a file is there: the box is as before or enrolled, never half, and its key is kept."""
    box, folder = Box(), IdentityFolder(tmp_path / "identity")
    key = folder.new_key(lambda: box.key_pem)
    writes = 0

    def failing(path: Path, data: bytes, mode: int = 0o600) -> None:
        nonlocal writes
        writes += 1
        if writes == step:
            raise OSError(5, "no power")
        files.write_durably(path, data, mode)

    monkeypatch.setattr(identity_module, "write_durably", failing)
    with pytest.raises(OSError, match="no power"):
        folder.keep(key, certificate(box), AUTHORITY.pem, WHO)
    assert folder.credentials() is None
    assert folder.new_key(lambda: Box().key_pem) == key
    writes = 100
    assert folder.keep(key, certificate(box), AUTHORITY.pem, WHO).key == key
    assert msgspec.json.decode((folder.folder / "enrolled.json").read_bytes(), type=Enrolled) == WHO
