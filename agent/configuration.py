"""Configuration: gateway.yaml and the profiles it names, read and cross-checked as one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from parkfleet.protocols.config import GatewayConfig
from parkfleet.protocols.crosscheck import check_gateway, profile_finder, read_of
from parkfleet.protocols.document import Document, DocumentError
from parkfleet.protocols.profile import Profile


@dataclass(frozen=True)
class Configuration:
    """A gateway's configuration that has passed every check."""

    gateway: GatewayConfig
    profiles: dict[str, Profile]  # by name, those the meters use
    folder: Path  # relative paths start here
    hash: str = ""  # SHA-256 of the file, hexadecimal: what the controller compares

    def path(self, name: str) -> Path:
        """A file named in the configuration, relative to the configuration's own folder."""
        return self.folder / name


def load_configuration(path: Path) -> Configuration:
    """Reads gateway.yaml and its profiles. Raises DocumentError with every mistake in all of them."""
    return check_configuration(Document.read(path), path.resolve().parent)


def check_configuration(document: Document, folder: Path) -> Configuration:
    """The configuration in a document whose relative paths start at a folder. Raises DocumentError."""
    named = document.data.get("profiles") if isinstance(document.data, dict) else None
    folders = [folder / str(name) for name in named] if isinstance(named, list) else []
    checked = check_gateway(document, profile_finder(folders))
    if checked.problems:
        raise DocumentError(checked.problems)
    return Configuration(document.convert(GatewayConfig), checked.profiles, folder, document.sha256)


def remarks(configuration: Configuration) -> Iterator[str]:
    """What is worth knowing of a configuration without a mistake: sides of transformers, rules without a meter."""
    for meter in configuration.gateway.meters:
        profile = configuration.profiles[meter.profile]
        if profile.primary:
            yield f"meter {meter.id}: {profile.profile} applies its transformers' ratios by itself, as set in the meter"
            continue
        known = profile.ratio_from
        missing = sorted(
            name
            for name in profile.ratios
            if getattr(meter, name) is None and not (known and getattr(known, name) is not None)
        )
        if missing:
            keys = " and ".join(missing)
            yield f"meter {meter.id}: direct connection is assumed; behind transformers give {keys} (ct: 200/5)"
    read = [read_of(meter, configuration.profiles[meter.profile]) for meter in configuration.gateway.meters]
    for noun, selectors in (("rule", configuration.gateway.rules), ("deadband", configuration.gateway.deadbands)):
        for selector in selectors:
            if not any(selector.points_of(meter.id, meter.profile.profile, meter.delivered) for meter in read):
                yield f"{noun} {selector.id}: no meter of this gateway delivers {', '.join(selector.points)}"
