"""nginx, HAProxy, and the reverse proxy of Go's library with and without a filter for comments."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs

from ..bench import Setup
from ..processes import DESCRIPTORS, Target, Wrong, free_port, started
from ._peer import Peer, Wiring

SOURCES = Path(__file__).parent / "go"

# Debian has servers where only root looks for programs.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def _program(name: str) -> str:
    return shutil.which(name, path=_PATH) or name


def _missing(program: str, package: str) -> str | None:
    return None if shutil.which(program, path=_PATH) else f"apt-get install {package}, or make peers"


_NGINX = """\
user {user};
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections {descriptors}; }}
http {{
    access_log {folder}/access.log;
    # The generator does not expect to be sent away behind a thousand requests.
    keepalive_requests 100000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream model {{
        server 127.0.0.1:{upstream};
        keepalive 64;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port}{ssl};
        ssl_certificate {certificates}/cert.pem;
        ssl_certificate_key {certificates}/key.pem;
        location / {{
            proxy_pass {scheme}://model;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_buffering off;
            proxy_buffer_size 64k;
            proxy_buffers 8 64k;
            proxy_read_timeout 310s;
            proxy_ssl_name localhost;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {certificates}/ca.pem;
        }}
    }}
}}
"""


@contextlib.contextmanager
def _nginx(setup: Setup, wiring: Wiring) -> Iterator[Target]:
    port = free_port()
    with tempfile.TemporaryDirectory(dir=setup.folder) as folder:
        config = Path(folder) / "nginx.conf"
        config.write_text(
            _NGINX.format(
                # The worker has to come into the folder, which is this user's.
                user="root" if os.geteuid() == 0 else "nobody",
                folder=folder,
                descriptors=DESCRIPTORS,
                upstream=setup.upstream_port,
                port=port,
                ssl=" ssl" if wiring.client_tls else "",
                scheme="https" if wiring.upstream_tls else "http",
                certificates=setup.certificates,
            )
        )
        command = [_program("nginx"), "-p", folder, "-c", str(config), "-e", "stderr"]
        with started(command, cores={setup.cores.subject}, port=port, stops_cleanly=False) as target:
            yield target


_HAPROXY = """\
global
    nbthread 1

defaults
    mode http
    # Without it an event waits 200 ms for more that could go into its packet.
    option http-no-delay
    timeout connect 10s
    timeout client 310s
    timeout server 310s

frontend clients
    bind 127.0.0.1:{port}{ssl}
    default_backend model

backend model
    http-reuse always
    server model 127.0.0.1:{upstream}{upstream_ssl}
"""


@contextlib.contextmanager
def _haproxy(setup: Setup, wiring: Wiring) -> Iterator[Target]:
    port = free_port()
    ssl = upstream_ssl = ""
    with tempfile.TemporaryDirectory(dir=setup.folder) as folder:
        if wiring.client_tls:
            both = Path(folder) / "both.pem"
            both.write_bytes(b"".join((setup.certificates / name).read_bytes() for name in ("cert.pem", "key.pem")))
            ssl = f" ssl crt {both}"
        if wiring.upstream_tls:
            authority = setup.certificates / "ca.pem"
            upstream_ssl = f" ssl verify required verifyhost localhost sni str(localhost) ca-file {authority}"
        config = Path(folder) / "haproxy.cfg"
        config.write_text(_HAPROXY.format(port=port, ssl=ssl, upstream=setup.upstream_port, upstream_ssl=upstream_ssl))
        command = [_program("haproxy"), "-db", "-f", str(config)]
        with started(command, cores={setup.cores.subject}, port=port, stops_cleanly=False) as target:
            yield target


def build(folder: Path) -> Path:
    """Build the proxies in Go there, if that has not been done; returns the program.

    Raises:
        Wrong: the compiler refuses.
    """
    program = folder / "go-proxy"
    if not program.exists():
        command = [_program("go"), "build", "-buildvcs=false", "-o", str(program), "."]
        done = subprocess.run(command, cwd=SOURCES, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise Wrong(f"go build: {done.stderr.strip()[-400:]}")
    return program


@contextlib.contextmanager
def _go(filtering: str, setup: Setup, wiring: Wiring) -> Iterator[Target]:
    command = [str(build(setup.folder)), "-upstream", wiring.upstream(setup)]
    if filtering:
        command += ["-filter", filtering]
    if wiring.upstream_tls:
        command += ["-ca", str(setup.certificates / "ca.pem")]
    if wiring.client_tls:
        command += ["-cert", str(setup.certificates / "cert.pem"), "-key", str(setup.certificates / "key.pem")]
    with started(
        command,
        cores={setup.cores.subject},
        port=lambda line: int(line) if line.isdigit() else None,
        more_environment={"GOMAXPROCS": "1"},
        stops_cleanly=False,
    ) as target:
        yield target


NGINX = Peer(name="nginx", start=_nginx, missing=functools.partial(_missing, "nginx", "nginx-light"), tls=True)
HAPROXY = Peer(name="haproxy", start=_haproxy, missing=functools.partial(_missing, "haproxy", "haproxy"), tls=True)
GO = Peer(name="go", start=functools.partial(_go, ""), missing=functools.partial(_missing, "go", "golang-go"), tls=True)
GO_FILTER = attrs.evolve(GO, name="go-filter", start=functools.partial(_go, "lines"), strips=True)
GO_FILTER_EVENTS = attrs.evolve(GO_FILTER, name="go-filter-events", start=functools.partial(_go, "events"))
