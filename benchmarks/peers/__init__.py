"""What sseflow is measured beside: real proxies, each configured as its users would for Server-Sent Events."""

from __future__ import annotations

from ._peer import Peer, Wiring
from .compiled import GO, GO_FILTER, GO_FILTER_EVENTS, HAPROXY, NGINX
from .python import AIOHTTP, LITELLM, MITMPROXY, STARLETTE

__all__ = ["PEERS", "Peer", "Wiring"]

#: By its name, in the order of the columns.
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (NGINX, HAPROXY, GO, GO_FILTER, GO_FILTER_EVENTS, AIOHTTP, STARLETTE, MITMPROXY, LITELLM)
}
