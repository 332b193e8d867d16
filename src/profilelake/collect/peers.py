"""Which address a request really came from, when proxies stand in between."""

from functools import lru_cache
from ipaddress import ip_address, ip_network

_ADDRESSES_MAX = 4_096
"""Addresses whose trust is remembered."""


class Peers:
    """Finds the client's address behind the proxies that are trusted, and behind no other.

    Raises ValueError at construction where a network is not one.
    """

    def __init__(self, trusted_proxies: tuple[str, ...]) -> None:
        """Believe `X-Forwarded-For` from these networks only."""
        networks = [ip_network(network, strict=False) for network in trusted_proxies]

        @lru_cache(_ADDRESSES_MAX)
        def trusted(address: str) -> bool | None:
            try:
                parsed = ip_address(address)
            except ValueError:
                return None
            return any(parsed in network for network in networks)

        self._trusted = trusted
        self.any_trusted = bool(networks)

    def trusts(self, address: str) -> bool:
        """Return whether an address is a trusted proxy's."""
        return self._trusted(address) is True

    def client(self, peer: str, forwarded_for: bytes) -> str:
        """Return the last address in the chain that no trusted proxy has.

        Each proxy appends whom it heard from, so what stands left of the first address that is not
        a trusted proxy's was written by the client itself and proves nothing.
        """
        if not self.any_trusted or not forwarded_for or not self._trusted(peer):
            return peer
        client = peer
        for hop in reversed(forwarded_for.decode("latin-1").split(",")):
            hop = hop.strip()
            trust = self._trusted(hop)
            if trust is None:
                break
            client = hop
            if not trust:
                break
        return client
