"""Scripts of what goes wrong with upstreams, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_BEGINNING = "head\ntoken Hello\n"
_OVERLOADED = 'event {"error":{"message":"Overloaded","type":"server_error","code":503}}\n'
_WHOLE = "token Hello\ntoken  world\nstop\ndone\nend\n"

#: What an upstream can do, by name. Those that stream speak OpenAI's chat completions.
SCRIPTS: Mapping[str, str] = MappingProxyType(
    {
        # Nothing wrong.
        "complete": f"head\n{_WHOLE}",
        "pings": f"head\ncomment ping\ncomment ping\n{_WHOLE}",
        "paced": "head\nrepeat 50\n    token  word\n    wait 0.05\nstop\ndone\nend\n",
        # Before the head.
        "close-at-accept": "on accept\nclose\n",
        "reset-at-accept": "on accept\nreset\n",
        "stall-at-accept": "on accept\nstall\n",
        "close-after-request": "close\n",
        "reset-after-request": "reset\n",
        "no-head": "stall\n",
        "half-a-head": "send HTTP/1.1 200 OK\\r\\nConte\nclose\n",
        "dripped-head": "drip 1 raw HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\n\\r\\n\nstall\n",
        "garbage-head": "send \\x16\\x03\\x01\\x02\\x00garbage\\r\\n\\r\\n\nclose\n",
        "http-0.9": "send <html>hello</html>\\r\\n\\r\\n\nclose\n",
        "icy-head": "send ICY 200 OK\\r\\n\\r\\n\nclose\n",
        "bare-cr-in-head": "send HTTP/1.1 200 OK\\r\\nX: a\\rb\\r\\n\\r\\n\nclose\n",
        "huge-head": "send HTTP/1.1 200 OK\\r\\n\nrepeat 2000\n    send X: "
        + 64 * "x"
        + "\\r\\n\nsend \\r\\n\nclose\n",
        "many-1xx": f"repeat 20\n    info 103\nhead\n{_WHOLE}",
        "unasked-101": "send HTTP/1.1 101 Switching\\r\\nUpgrade: x\\r\\nConnection: upgrade\\r\\n\\r\\n\nstall\n",
        "two-lengths": "send HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\nContent-Length: 4\\r\\n\\r\\nabc\nclose\n",
        "length-and-chunks": f"head chunked 'Content-Length: 3'\n{_WHOLE}",
        # An answer of another kind.
        "status-429": "head 429 length type=application/json 'Retry-After: 3'\n"
        'data {"error":{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded"}}\nend\n',
        "status-401": "head 401 length type=application/json\n"
        'data {"error":{"message":"Incorrect API key","type":"invalid_request_error","code":"invalid_api_key"}}\nend\n',
        "status-302": "head 302 length type=text/plain 'Location: http://elsewhere.example/'\nend\n",
        "early-413": "on head\nhead 413 length type=application/json\n"
        'data {"error":{"message":"Too large","type":"invalid_request_error","code":null}}\nend\n',
        "json-error-with-200": "head 200 length type=application/json\n"
        'data {"error":{"message":"Overloaded","type":"server_error","code":503}}\nend\n',
        "html-with-200": "head 200 length type=text/html\ndata <html>Sign in to the network</html>\nend\n",
        # A stream that is none, or ends too soon.
        "empty": "head\nend\n",
        "only-comments": "head\ncomment ping\ncomment ping\nend\n",
        "only-done": "head\ndone\nend\n",
        "no-end": f"{_BEGINNING}end\n",
        "no-last-chunk": f"{_BEGINNING}cut\n",
        "cut-in-chunk": f'{_BEGINNING}send 40\\r\\ndata: {{"choi\ncut\n',
        "cut-in-event": f'{_BEGINNING}data data: {{"choi\ncut\n',
        "cut-in-character": f"{_BEGINNING}data data: \\xe2\\x82\ncut\n",
        "cut-behind-cr": f"{_BEGINNING}data data: x\\r\ncut\n",
        "clean-end-in-event": f'{_BEGINNING}data data: {{"choi\nend\n',
        "reset-between-events": f"{_BEGINNING}hold reset\nreset\n",
        "reset-in-event": f'{_BEGINNING}data data: {{"choi\nhold reset\nreset\n',
        "short-length": f"head length=1000\n{_WHOLE.removesuffix('end' + chr(10))}close\n",
        "unended-last-event": "head\ntoken Hello\nstop\ndata data: [DONE]\\n\nend\n",
        # A stream that stands still.
        "stall": f"{_BEGINNING}stall\n",
        "stall-in-event": f'{_BEGINNING}data data: {{"choi\nstall\n',
        "pings-for-ever": f"{_BEGINNING}repeat forever\n    comment ping\n    wait 0.02\n",
        "open-behind-done": "head\ntoken Hello\nstop\ndone\nstall\n",
        # A stream that is too much.
        "long-line": f"{_BEGINNING}line 33MiB\nstop\ndone\nend\n",
        "long-event": f"{_BEGINNING}repeat 600\n    data data: {64 * 'x'}\\n\ndata \\n\nstop\ndone\nend\n",
        # Odd, and yet a stream.
        "odd-bytes": "head\ndata \\xef\\xbb\\xbfdata: \\xff\\0 \\xe2\\x80\\xa8\\rdata: b\\r\\n\\r\\n\n" + _WHOLE,
        "no-content-type": "send HTTP/1.1 200 OK\\r\\n\\r\\n\ntoken Hello\ntoken  world\nstop\ndone\nclose\n",
        "text-plain": f"head type=text/plain\n{_WHOLE}",
        "trailers": "head\ntoken Hello\nstop\ndone\nend 'X-Sum: 1' 'Set-Cookie: a=b'\n",
        "framing-trailer": "head\ntoken Hello\nstop\ndone\nend 'Content-Length: 3'\n",
        "gzip": f"head gzip\n{_WHOLE}",
        "extra-behind-length": "head length\ntoken Hello\nstop\ndone\nend\nsend HTTP/1.1 200 OK\\r\\n\n",
        "extra-behind-chunks": f"head chunked\n{_WHOLE}send HTTP/1.1 200 OK\\r\\n\n",
        # A body whose framing breaks.
        "bad-chunk-size": f"{_BEGINNING}send xyz\\r\\n\nclose\n",
        "overflowing-chunk-size": f"{_BEGINNING}send fffffffffffffffff\\r\\n\nclose\n",
        "bad-chunk-end": f"{_BEGINNING}send 3\\r\\nabcXX\nclose\n",
        # What the model's server says itself.
        "error-first": "head\n" + _OVERLOADED + "end\n",
        "error-event": f"{_BEGINNING}{_OVERLOADED}end\n",
    }
)
