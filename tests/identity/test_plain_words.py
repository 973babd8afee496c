"""An operator's command without TLS at a controller that has it."""

from pathlib import Path

from tests.identity.guarded import command, guarded


async def test_plain_words_are_told_what_is_missing(tmp_path: Path) -> None:
    """Not that nobody is there: that the authority's certificate is needed, and how to name it."""
    async with guarded(tmp_path) as controller:
        env = {"HOME": str(tmp_path), "PARKFLEET_CONTROLLER": controller.operators}
        code, _, err = await command("fleet", "list", env=env)
    assert code == 1
    assert "answers, but not without TLS" in err
    assert "--ca ca.pem login" in err
