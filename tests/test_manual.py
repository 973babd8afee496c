"""The manual: what it says exists, and what exists stands in it."""

import re
from pathlib import Path

import pytest
import yaml

from parkfleet.agent.configuration import load_configuration
from parkfleet.protocols import config, rules
from parkfleet.protocols.quantity import Duration, Size

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *sorted(DOCS.parent.glob("README*.md"))]


def test_configuration_example_is_accepted(tmp_path: Path) -> None:
    """The manual's gateway.yaml passes the check."""
    text = (DOCS / "configuration.md").read_text("utf-8")
    example = next(block for block in re.findall(r"```yaml\n(.*?)```", text, re.S) if "gateway:" in block)
    path = tmp_path / "gateway.yaml"
    path.write_text(example)
    assert load_configuration(path).gateway.park == "demo"


@pytest.mark.parametrize(
    "model",
    [
        config.GatewayConfig,
        config.BrokerConfig,
        config.BufferConfig,
        config.ControllerConfig,
        config.LineConfig,
        config.MeterConfig,
        rules.RuleConfig,
        rules.DeadbandConfig,
    ],
)
def test_every_setting_stands_in_the_manual(model: type) -> None:
    """Each key has its row, and its default there is the model's."""
    text = (DOCS / "configuration.md").read_text("utf-8")
    rows = {
        key: row for row in re.findall(r"^\|.*\|$", text, re.M) for key in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    for field in model.__struct_fields__:  # type: ignore[attr-defined]
        assert field in rows, field
    for field, default in zip(reversed(model.__struct_fields__), reversed(model.__struct_defaults__), strict=False):  # type: ignore[attr-defined]
        value = default.factory() if hasattr(default, "factory") else default
        if isinstance(value, Duration | Size):
            assert f"`{value}`" in rows[field], (field, str(value), rows[field])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """No link of the manual is dead."""
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_profile_example_is_yaml() -> None:
    """Every YAML block of the manual parses."""
    for page in PAGES:
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.S):
            assert yaml.safe_load(block) is not None
