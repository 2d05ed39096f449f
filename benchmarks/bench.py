"""What a benchmark is, and what it is given."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import attrs

from .jobs import Job, Report
from .processes import Conversation, Cores, Wrong, conversation
from .results import Missing, Reading, Series

if TYPE_CHECKING:
    from .peers import Peer


class Setup:
    """What benchmarks share. Use it as a context manager: it ends what it started.

    Args:
        smoke: measure next to nothing, only to see that it works.
        peers: what is measured beside sseflow.
        soak: seconds of the soak.
    """

    def __init__(self, *, smoke: bool, peers: Sequence[Peer] = (), soak: float = 600.0) -> None:
        self.smoke = smoke
        self.peers = tuple(peers)
        self.soak = soak
        self.cores = Cores.choose()
        self.seconds = 0.2 if smoke else 2.0
        self._stack = contextlib.ExitStack()
        self._generator: Conversation | None = None
        self._upstream_port = 0

    def __enter__(self) -> Setup:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _talk(self) -> Conversation:
        if self._generator is None:
            generator = self._stack.enter_context(conversation("benchmarks.loadgen", core=self.cores.generator))
            port = generator.receive(20.0)["port"]
            assert isinstance(port, int)
            self._upstream_port = port
            self._generator = generator
        return self._generator

    @property
    def upstream_port(self) -> int:
        """Where the generator's upstream listens."""
        self._talk()
        return self._upstream_port

    @functools.cached_property
    def folder(self) -> Path:
        """A place for files, which go with the setup."""
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sseflow-bench-")))

    @functools.cached_property
    def certificates(self) -> Path:
        """A folder with ``cert.pem`` and ``key.pem``, for localhost, and ``ca.pem``, which signed it."""
        import trustme  # for those who measure TLS only

        folder = self.folder / "certificates"
        folder.mkdir()
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
        for link in certificate.cert_chain_pems:
            link.write_to_path(str(folder / "cert.pem"), append=True)
        return folder

    def do(self, job: Job, *, alone: bool = True) -> Report:
        """Let the generator do a job.

        It looks at its sockets without a pause if it has a core of its own: to wake a core that sleeps costs CPU time,
        and it is whoever sends, the target, that pays.

        Args:
            alone: nothing that is measured uses the generator's core, too.

        Raises:
            Wrong: bytes were lost, or the time was over.
        """
        job = attrs.evolve(job, spin=alone and not self.cores.shared)
        if job.upstream_tls or job.client_tls:
            job = attrs.evolve(job, certificates=str(self.certificates))
        report = Report(**self._talk().ask(attrs.asdict(job), job.limit + 20))  # type: ignore[arg-type]  # it was one before
        if report.wrong is not None:
            raise Wrong(f"{job.mode} of {job.shape}, {'proxied' if job.port else 'direct'}: {report.wrong}")
        return report


Run: TypeAlias = Callable[[Setup], Iterator[Reading | Missing | Series]]


@attrs.frozen
class Benchmark:
    """Something to measure: one call of ``run`` is one run."""

    group: str
    """The table it is in."""

    name: str
    run: Run
    needs_linux: bool = True

    only_named: bool = False
    """It is long: it runs if it is asked for by its own name."""
