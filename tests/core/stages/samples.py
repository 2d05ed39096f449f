"""Short streams that every stage is checked with: each line ending, mixed ones, byte order marks, long lines, tails."""

_TEXT = b": c\n:\n\ndata:a\nid: 1\n\nid:2\n\n:d\n"

SHORT: dict[str, bytes] = {
    "empty": b"",
    "lf": _TEXT,
    "crlf": _TEXT.replace(b"\n", b"\r\n"),
    "cr": _TEXT.replace(b"\n", b"\r"),
    "mixed": b":c\r\n\rdata: a\n\r\n:x\r\r\nid: 1\r\n\r:\n\n\r",
    "bom": b"\xef\xbb\xbf: c\r\n\r\ndata: a\n\n",
    "half-a-bom": b"\xef\xbbdata: a\n\n",
    "tail-of-data": b"data: a\n\n: c\nda",
    "tail-of-comment": b"data: a\r\n\r\n: c",
    "tail-of-cr": b"data: a\n\ndata: b\r",
}

# For ``whole=64``, and not longer than need be: the number of cuts grows with the square of the length.
SAMPLES: dict[str, bytes] = {
    **SHORT,
    "long-data": b"data: " + b"x" * 60 + b"\r\n\r\n",
    "long-comment": b"id\n: " + b"c" * 64 + b"\r\n\r\n",
    "long-tail": b"id\ndata: " + b"x" * 60,
    "exactly-whole": b"data: " + b"x" * 58 + b"\r\n\r\n",
}
