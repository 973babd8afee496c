"""Join token: what is written is read, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.protocols.join_token import MAX_BYTES, PREFIX, JoinToken, TokenError

TOKEN = JoinToken("fleet.example.org:7444", bytes(range(32)), "abcdefgh", b"s" * 20)

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{2,10}){0,3}|\[[0-9a-f:]{2,30}\]", fullmatch=True)
tokens = st.builds(
    lambda name, port, fingerprint, secret: JoinToken(f"{name}:{port}", fingerprint, "k3m7x2qd", secret),
    names,
    st.integers(1, 65535),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=20, max_size=20),
)


@given(tokens)
def test_parse_reads_what_text_wrote(token: JoinToken) -> None:
    """Also with a line broken by a mail, spaces around it, and in capitals."""
    text = token.text()
    assert JoinToken.parse(text) == JoinToken.parse(text.upper()) == token
    assert JoinToken.parse(f"  {text[:40]}\n{text[40:]}\r\n") == token


@given(st.text(max_size=300))
def test_parse_refuses_any_text(text: str) -> None:
    """In a sentence that does not quote it."""
    for candidate in (text, PREFIX + text):
        with pytest.raises(TokenError) as caught:
            JoinToken.parse(candidate)
        assert len(text) < 12 or text not in str(caught.value)


@given(st.integers(len(PREFIX), len(TOKEN.text()) - 1), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_parse_finds_every_wrong_letter(at: int, letter: str) -> None:
    """And what is missing at the end."""
    text = TOKEN.text()
    if text[at] != letter:
        with pytest.raises(TokenError):
            JoinToken.parse(text[:at] + letter + text[at + 1 :])
    with pytest.raises(TokenError):
        JoinToken.parse(text[:at])


@pytest.mark.parametrize("address", ["nowhere", "host:0", "host:99999", "a b:1", "host:\n1", "x" * 300 + ":1"])
def test_text_takes_no_address_that_is_none(address: str) -> None:
    """A token that leads nowhere is not made."""
    with pytest.raises(ValueError):
        JoinToken(address, bytes(32), "abcdefgh", bytes(20)).text()


def test_new_tokens_differ() -> None:
    """In id and secret; a token's own words never show the secret."""
    one, two = JoinToken.new("h:1", bytes(32)), JoinToken.new("h:1", bytes(32))
    assert one.id != two.id and one.secret != two.secret
    assert "secret" not in repr(one)


def test_parse_refuses_a_flood() -> None:
    """Before it decodes it."""
    with pytest.raises(TokenError, match="too long"):
        JoinToken.parse(PREFIX + "a" * (MAX_BYTES * 2))
