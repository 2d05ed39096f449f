"""TLS contexts from files."""

from __future__ import annotations

import functools
import os
import ssl
from pathlib import Path
from typing import TypeAlias

import truststore

from .. import ConfigurationError

Name: TypeAlias = str | os.PathLike[str]


def server_tls(cert: Name, key: Name) -> ssl.SSLContext:
    """What is spoken to clients: TLS 1.2 and later, with a certificate chain and its key.

    Raises:
        ConfigurationError: they cannot be used.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the certificate {cert} and the key {key} cannot be used: {error}") from error
    return _http11(context)


def upstream_tls(authorities: Name | None) -> ssl.SSLContext:
    """What is spoken to upstreams, whose certificates are checked; None: by the system's authorities.

    The same authorities give the same context, so that a configuration that is read again is seen to be the same.

    Raises:
        ConfigurationError: the file of authorities cannot be used.
    """
    try:
        if authorities is None:
            return _trusting(None, b"")
        return _trusting(os.fspath(authorities), Path(authorities).read_bytes())
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the authorities in {authorities} cannot be used: {error}") from error


@functools.lru_cache(maxsize=64)
def _trusting(authorities: str | None, content: bytes) -> ssl.SSLContext:
    if authorities is None:
        return _http11(truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authorities)
    return _http11(context)


def _http11(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
