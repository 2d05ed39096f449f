"""For ``mitmdump -s``: let answers through as they come, instead of when they are whole."""

from __future__ import annotations

from mitmproxy import http


def responseheaders(flow: http.HTTPFlow) -> None:
    """Stream every answer."""
    assert flow.response is not None
    flow.response.stream = True
