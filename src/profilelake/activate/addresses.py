"""Which addresses may be connected to: public ones, and those an operator has named.

A name is resolved once, and the connection goes to the address that was looked at. Who rebinds a name in between,
or answers with an address inside, gains nothing.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

from profilelake.errors import ProfilelakeError

Address: TypeAlias = IPv4Address | IPv6Address
Resolve: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
"""Gives the addresses of a name; raises OSError where it has none."""

_NAT64: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_INSIDE: Final = (ip_network("192.0.0.0/24"), ip_network("fec0::/10"))
"""What some versions of Python call public; in the first of them a cloud has its metadata."""
_LOW_32_BITS: Final = (1 << 32) - 1


class Refused(ProfilelakeError):
    """A receiver that may not be connected to: change its URL, or let the operator allow its network."""


class Allowed:
    """The networks that are not public and may be connected to all the same."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = tuple(ip_network(network, strict=False) for network in networks)

    def private(self, address: Address) -> bool:
        """Tell whether an address is in one of them."""
        return any(address in network for network in self._networks if network.version == address.version)

    def choose(self, addresses: Iterable[str], *, secure: bool) -> str:
        """Return the first address that may be connected to.

        Raises:
            Refused: there is none, or it would be asked without TLS.
        """
        found = [ip_address(text.partition("%")[0]) for text in addresses]
        for address in found:
            if self.private(address):
                return str(address)
            if is_public(address):
                if not secure:
                    raise Refused(
                        "connecting to a receiver: it is not ours and its URL is http://; give https://"
                    )
                return str(address)
        raise Refused(
            "connecting to a receiver: its name leads to no public address; to reach one inside, add its network"
            " to activate.allow_private"
        )


def is_public(address: Address) -> bool:
    """Tell whether an address is one of the open internet, whatever it is wrapped in."""
    inner = _inside(address)
    if inner is not None:
        return is_public(inner)
    if any(address in network for network in _INSIDE if network.version == address.version):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _inside(address: Address) -> IPv4Address | None:
    """Return the address that is reached by way of one that only wraps it."""
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if any(address in network for network in _NAT64) or int(address) <= _LOW_32_BITS:
        return IPv4Address(int(address) & _LOW_32_BITS)
    return None


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a name as the system knows them. Raises OSError."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"no name of a machine: {error}") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
