"""Secret references: found wherever they stand, allowed where a file is named, replaced by that file's name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.protocols.secret import is_secret_name, references, with_files


@pytest.mark.parametrize(
    ("data", "where", "right"),
    [
        ({"broker": {"password_file": "${secret:mqtt}"}}, "broker.password_file", True),
        ({"broker": {"password_file": "x-${secret:mqtt}"}}, "broker.password_file", False),
        ({"broker": {"username": "${secret:mqtt}"}}, "broker.username", False),
        ({"lines": [{"url": "tls://x?ca=ca.pem&key=${secret:mqtt}"}]}, "lines[0].url", True),
        ({"lines": [{"url": "tls://${secret:mqtt}"}]}, "lines[0].url", False),
        ({"profiles": ["${secret:mqtt}"]}, "profiles[0]", False),
        ({"big": 2**70, "ca": "${secret:mqtt}"}, "ca", True),
    ],
)
def test_references(data: object, where: str, right: bool) -> None:
    """With their place, and what is wrong with it."""
    (found,) = references(data)
    assert (found.where, found.name, found.told == "") == (where, "mqtt", right)


def test_name_that_leads_elsewhere_is_told() -> None:
    """A name becomes a file's name."""
    (found,) = references({"ca": "${secret:../../etc/passwd}"})
    assert "a secret's name is" in found.told
    assert not is_secret_name("../x") and not is_secret_name("") and is_secret_name("mqtt-2")


def test_with_files() -> None:
    """Everything else stays; the data that was given too."""
    data = {"ca": "${secret:a}", "lines": [{"url": "tls://x?key=${secret:b}", "unit": 1}]}
    assert with_files(data, lambda name: f"/s/{name}") == {
        "ca": "/s/a",
        "lines": [{"url": "tls://x?key=/s/b", "unit": 1}],
    }
    assert data["ca"] == "${secret:a}"


@given(
    st.recursive(
        st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_data(data: object) -> None:
    """Is looked through, and comes back the same when it has no reference."""
    if not list(references(data)):
        assert with_files(data, lambda name: "never") == data
