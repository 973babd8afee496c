"""Address: HOST:PORT, as people name a controller."""

from ipaddress import ip_address


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of host:port; an IPv6 host keeps its brackets. Raises ValueError with a sentence for the user."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise ValueError(f"expected HOST:PORT such as 127.0.0.1:7443, got {address!r}")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"an IPv6 address stands in brackets: [::1]:7443, got {address!r}")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that host."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_everywhere(host: str) -> bool:
    """Whether listening on that host means all addresses of the machine."""
    try:
        return ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False
