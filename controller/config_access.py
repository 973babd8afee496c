"""Config access: the fleet's configuration and who may do what: where parks belong, what a change touches."""

from collections.abc import Iterator

from parkfleet.controller.access import FLEET, Permission, Reach, Scope
from parkfleet.controller.caller import caller
from parkfleet.controller.config_fleet import ConfigFleet, Proposal
from parkfleet.controller.config_layers import Kind, LayerName, Revision
from parkfleet.controller.demands import layer_readers


class ConfigBelonging:
    """Belonging, as the layers that hold say it."""

    def __init__(self, fleet: ConfigFleet) -> None:
        self._fleet = fleet

    def region_of(self, park: str) -> str | None:
        """By the park's layer."""
        return region_in(self._fleet.held(LayerName(Kind.PARK, park)))

    def parks_of_region(self, region: str) -> set[str]:
        """By the parks' layers."""
        parks = (head for head in self._fleet.heads() if head.layer.kind is Kind.PARK)
        return {head.layer.name for head in parks if region_in(head) == region}

    def parks_of_label(self, label: str) -> set[str]:
        """By the parks' layers and the gateways' own, also of those that are not managed yet."""
        return set(self._saying(label))

    def _saying(self, label: str) -> Iterator[str]:
        for head in self._fleet.heads():
            if head.layer.kind in (Kind.PARK, Kind.GATEWAY) and label in (head.tree.get("labels") or ()):
                yield head.layer.key.park if head.layer.kind is Kind.GATEWAY else head.layer.name


def region_in(head: Revision | None) -> str | None:
    """The region that a park's layer says."""
    region = head.tree.get("region") if head else None
    return region if isinstance(region, str) else None


def permit(proposal: Proposal, before: Revision | None, dry_run: bool) -> None:
    """Raises DeniedError unless the caller has rights over all that a change of a layer touches.

    That is every gateway whose document it is part of, before or after; and of a park that changes its region both
    regions, for who has rights over a region then has them over the park, or no longer.
    """
    scopes = {Scope.park(key.park) for key in proposal.touched}
    if proposal.draft.layer.kind is Kind.PARK:
        regions = {region_in(before), region_in(proposal.draft)}
        if len(regions) > 1:
            scopes |= {Scope.region(region) for region in regions if region is not None}
    if scopes:
        permission = Permission.SEE if dry_run else Permission.CONFIGURE
        caller().need(permission, Reach.every(sorted(scopes)))


def visible_layers(heads: list[Revision], fleet: ConfigFleet) -> list[Revision]:
    """Those of them that the caller may read."""
    who = caller()
    if who.may(Permission.SEE, Reach.every([FLEET])):
        return heads
    belonging = ConfigBelonging(fleet)
    return [head for head in heads if who.may(Permission.SEE, layer_readers(str(head.layer), belonging))]
