"""Which addresses a connection may be made to, so that no name can lead it into the network that we stand in."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TypeAlias

#: A range of addresses.
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

#: What is no public server (the registries that RFC 6890 began), and one that is, and gives away a machine's secrets.
_NOT_PUBLIC = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",  # this machine
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # behind a carrier's NAT; some clouds have their metadata here
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # Azure's host, which every virtual machine there can reach
            "169.254.0.0/16",  # link-local, and the metadata of most clouds
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocols; one cloud has its metadata here
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)

#: All that is public in IPv6; and in it what is not.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # protocols, among them Teredo, which hides an IPv4 address
            "2001:db8::/32",  # documentation
            "3fff::/20",  # documentation
        ),
    )
)

#: Networks whose addresses lead to the IPv4 address in them, and how far from the right that stands.
_TRANSLATED = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),  # IPv4-mapped
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),  # NAT64
    (ipaddress.IPv6Network("2002::/16"), 80),  # 6to4
)


def may_lead_to(address: str, allowed: Iterable[Network] = ()) -> bool:
    """Whether a connection may be made to ``address``: it is public, or in one of the ``allowed`` networks.

    What stands for an IPv4 address (IPv4-mapped, 6to4 and NAT64 with its well-known prefix) is judged as that. Of IPv6,
    only global unicast is public. What is no address is not.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    meant = _translated(found)
    return _is_public(meant) or any(one in network for network in allowed for one in (found, meant))


def _translated(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 address leads to, or ``address`` itself."""
    if isinstance(address, ipaddress.IPv6Address):
        for network, shift in _TRANSLATED:
            if address in network:
                return ipaddress.IPv4Address(int(address) >> shift & 0xFFFFFFFF)
    return address


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC)
    return address in _GLOBAL_UNICAST and not any(address in network for network in _NOT_PUBLIC_6)
