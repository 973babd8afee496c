"""ParkFleet: the agent on the edge boxes of industrial parks, and the controller of the fleet of them."""

__all__ = ["__version__"]

__version__ = "0.1.0"
