"""Start what is measured and what measures, each on a core of its own; ask the system what a process cost."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs

ROOT = Path(__file__).resolve().parent.parent

START_SECONDS = 20.0
"""For a process to say where it listens; a machine that runs tests, too, is slow to start Python."""

END_SECONDS = 10.0

DESCRIPTORS = 16384
"""What 5,000 streams need on both sides of a proxy, and half as much again."""


class Wrong(Exception):
    """What was measured did not do what it was measured for."""


@attrs.frozen
class Cores:
    """Which cores are for what: one for what is measured, another one for what measures it, if there is one."""

    subject: int
    generator: int

    @classmethod
    def choose(cls) -> Cores:
        """The last one that this process may use, and the first."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[-1], usable[0])

    @property
    def shared(self) -> bool:
        """Whether there is only one: then nothing that is measured over sockets is worth much."""
        return self.subject == self.generator


@attrs.frozen
class Target:
    """A process that relays, and those that it has started: where it listens, and what it logs."""

    port: int
    pid: int
    log: Path

    @property
    def pids(self) -> tuple[int, ...]:
        """All of them that there are by now: their CPU time and memory count."""
        return family(self.pid)

    def lines(self) -> list[dict[str, object]]:
        """What it has logged, as far as that is JSON."""
        found = []
        for line in self.log.read_text("utf-8", "replace").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]


def family(pid: int) -> tuple[int, ...]:
    """A process, its children, and theirs."""
    found = [pid]
    for each in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return tuple(found)


def free_port() -> int:
    """A port that nothing listens on, for a program that has to be told one."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def is_supported() -> bool:
    """Whether this system has what is needed to measure over sockets: epoll, affinity, and /proc."""
    return sys.platform == "linux" and Path("/proc/self/schedstat").exists()


def allow_descriptors() -> None:
    """Raise this process's limit of open descriptors, which its children inherit, as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def environment() -> dict[str, str]:
    """This process's, in which children find the same package."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


@attrs.frozen
class Schedule:
    """What the system's scheduler says of processes, in seconds."""

    cpu: float
    """They ran."""

    waited: float
    """They could have run, and something else had the core."""

    def __sub__(self, earlier: Schedule) -> Schedule:
        return Schedule(self.cpu - earlier.cpu, self.waited - earlier.waited)


def schedule(pids: Iterable[int]) -> Schedule:
    """How long all threads of processes have run, and waited, so far."""
    cpu = waited = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                fields = (task / "schedstat").read_text().split()
                cpu += int(fields[0])
                waited += int(fields[1])
    return Schedule(cpu / 1e9, waited / 1e9)


def memory(pids: Iterable[int]) -> int:
    """Bytes that processes hold in memory."""
    return sum(_status(pid, "VmRSS") for pid in pids)


def peak_memory(pids: Iterable[int]) -> int:
    """The most bytes that processes have held in memory since `reset_peak`."""
    return sum(_status(pid, "VmHWM") for pid in pids)


def reset_peak(pids: Iterable[int]) -> None:
    """Let the peak begin anew (see proc_pid_clear_refs(5))."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise Wrong(f"the process {pid} has no {name}")


@contextlib.contextmanager
def pinned(cores: Iterable[int]) -> Iterator[None]:
    """What is started in this block runs on these cores only, with all that it starts in its turn."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def started(
    command: Sequence[str],
    *,
    cores: Iterable[int],
    port: int | Callable[[str], int | None],
    more_environment: Mapping[str, str] | None = None,
    stops_cleanly: bool = True,
    patience: float = START_SECONDS,
) -> Iterator[Target]:
    """Run a program that logs to its standard error; end it behind the block.

    Args:
        port: where it listens, or what finds that in a line of its log, if it is there.
        stops_cleanly: whether it ends with the status 0 when it is told to end.
        patience: seconds for it to listen.

    Raises:
        Wrong: it did not start, or did not end as it should.
    """
    with tempfile.TemporaryDirectory(prefix="sseflow-bench-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output, pinned(cores):
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**environment(), **(more_environment or {})},
                cwd=ROOT,
            )
        try:
            found = _wait_for_port(process, log, port, patience)
            yield Target(found, process.pid, log)
        finally:
            status = end(process)
        if status and stops_cleanly:
            raise Wrong(f"{command[2]} ended with the status {status}: {_last_lines(log)}")


def end(process: subprocess.Popen[bytes]) -> int:
    """End a process: politely first, then at once. Returns its status."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(END_SECONDS)


def _wait_for_port(
    process: subprocess.Popen[bytes], log: Path, port: int | Callable[[str], int | None], patience: float
) -> int:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        if isinstance(port, int):
            if not ended and _listens(port):
                return port
        else:
            for line in log.read_text("utf-8", "replace").splitlines():
                if (found := port(line)) is not None:
                    return found
        if ended:
            break
        time.sleep(0.01)
    raise Wrong(f"{' '.join(map(str, process.args))} did not start: {_last_lines(log)}")  # type: ignore[arg-type]  # a list


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _last_lines(log: Path) -> str:
    return " / ".join(log.read_text("utf-8", "replace").splitlines()[-3:])[-600:]


class Conversation:
    """A child that takes a line of JSON and answers with one."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def receive(self, limit: float) -> dict[str, object]:
        """Its next answer; it is killed if that takes longer than ``limit`` seconds.

        Raises:
            Wrong: it gave none.
        """
        assert self._process.stdout is not None
        killer = threading.Timer(limit, self._process.kill)
        killer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            killer.cancel()
        if not line:
            raise Wrong(f"the load generator gave no answer within {limit:g} s")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def ask(self, question: dict[str, object], limit: float) -> dict[str, object]:
        """Send a question and receive the answer; raises as `receive` does."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Wrong("the load generator has ended") from None
        return self.receive(limit)


@contextlib.contextmanager
def conversation(module: str, *, core: int) -> Iterator[Conversation]:
    """Run a module of this package that takes questions; end it behind the block."""
    with pinned({core}):
        process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=ROOT
        )
    try:
        yield Conversation(process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        end(process)
        process.stdout.close()
