"""What was said in chains of responses, so that one whose provider has lost it can go on."""

# One file of SQLite, one connection, one thread at a time. Who wants something stored waits for his turn, and the one
# whose turn it is writes what all have brought, in one transaction: there is no task that writes, and nothing to hand
# over to one. Nobody waits for longer than `disk_timeout`. A thread that hangs in the disk keeps the turn; until it
# comes back everything is refused at once.

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import stat
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import attrs
import trio

from .. import ConfigurationError
from ..dialects import CompleteResponse, as_input, elements
from ._redact import redact_json

T = TypeVar("T")

SCHEMA = 1
"""The version of the file's tables; a file of a later one is refused."""

_APPLICATION = 0x73736668  # "ssfh": what the file says it is

MOST_LINKS = 4096
"""Responses in one chain. One more, and it is no chain that a model could be sent."""

_TABLES = (
    """
    CREATE TABLE response (
        number INTEGER PRIMARY KEY,
        owner BLOB NOT NULL,
        id BLOB NOT NULL,
        previous BLOB,
        input BLOB NOT NULL,
        output BLOB NOT NULL,
        size INTEGER NOT NULL,
        stored REAL NOT NULL,
        UNIQUE (owner, id)
    )
    """,
    "CREATE INDEX by_age ON response (stored)",
    "CREATE TABLE total (bytes INTEGER NOT NULL)",
    "INSERT INTO total VALUES (0)",
    "CREATE TRIGGER added AFTER INSERT ON response BEGIN UPDATE total SET bytes = bytes + new.size; END;",
    "CREATE TRIGGER removed AFTER DELETE ON response BEGIN UPDATE total SET bytes = bytes - old.size; END;",
)
_ROW = 256
"""Bytes that a response takes beside its items, roughly."""


@attrs.define
class HistoryCounts:
    """What became of everything that was asked of a history."""

    stored: int = 0
    dropped: int = 0
    """Not stored: too large, or too much at once."""

    failed: int = 0
    """Calls that the disk refused or that took too long, and redactions that went wrong."""

    recalled: int = 0
    missed: int = 0
    """Not recalled: not there, somebody else's, or not from its beginning."""


@attrs.define(eq=False)
class _Pending:
    """A response that waits for a thread, and what became of it; ``response`` is None once its caller has given up."""

    owner: bytes
    response: CompleteResponse | None
    stored: bool = False
    error: Exception | None = None


class History:
    """The input and output of complete responses, by owner and id. Made by `open_history`.

    Nothing here raises because of the disk: what fails is counted, and told to ``on_error``. An owner is whatever
    tells clients apart; what is stored of it is a hash. What belongs to another owner is not there.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        max_age: float,
        max_bytes: int,
        max_pending: int,
        max_recalled: int,
        disk_timeout: float,
        redact: Callable[[bytes], bytes],
        on_error: Callable[[Exception], object] | None,
        clock: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._max_age = max_age
        self._max_bytes = max_bytes
        self._max_pending = max_pending
        self._max_recalled = max_recalled
        self._disk_timeout = disk_timeout
        self._redact = redact
        self._on_error = on_error
        self._clock = clock
        self._limiter = trio.CapacityLimiter(1)
        self._hangs = False
        # Written by the loop and emptied by the thread: each end is one atomic call.
        self._pending: deque[_Pending] = deque()
        self._held = 0
        self.counts = HistoryCounts()

    async def store(self, owner: str, response: CompleteResponse) -> bool:
        """Keep a complete response. A second one of the same id changes nothing.

        Call it when the client has its answer: this may take up to ``disk_timeout``.

        Returns:
            Whether it is on the disk; False also if that took too long to be known.
        """
        size = sum(map(len, (response.id, response.previous_id or "", *response.input, *response.output))) + _ROW
        if size > self._max_bytes or self._held + size > self._max_pending:
            self.counts.dropped += 1
            return False
        pending = _Pending(_hashed(owner), response)
        self._held += size
        self._pending.append(pending)
        try:
            await self._in_thread(self._write_pending)
        finally:
            pending.response = None
            self._held -= size
        if pending.error is not None:
            self._failed(pending.error)
        self.counts.stored += pending.stored
        return pending.stored

    async def recall(self, owner: str, response_id: str) -> list[bytes] | None:
        """The whole conversation up to a response: the input items of each link, and its output as input.

        Returns:
            None if it is not there from its beginning: a link is missing, is older than ``max_age``, or is another
            owner's, or the whole is longer than ``max_recalled``. Never half a history.
        """
        found = await self._in_thread(lambda: self._conversation(_hashed(owner), _key(response_id)))
        if found is None:
            self.counts.missed += 1
        else:
            self.counts.recalled += 1
        return found

    async def delete(self, owner: str, response_id: str) -> bool:
        """Forget one response. A chain that goes through it cannot be recalled any more.

        Returns:
            Whether it is gone from the disk, or was never there.
        """
        where = "owner = ? AND id = ?"
        return await self._in_thread(lambda: self._remove(where, _hashed(owner), _key(response_id))) is not None

    async def forget(self, owner: str) -> bool:
        """Forget all of an owner.

        Returns:
            Whether it is gone from the disk.
        """
        return await self._in_thread(lambda: self._remove("owner = ?", _hashed(owner))) is not None

    async def _in_thread(self, work: Callable[[], T]) -> T | None:
        """Do it when it is its turn; None if the disk refuses, or it takes too long."""
        try:
            if self._hangs and self._limiter.available_tokens == 0:
                raise trio.TooSlowError("the disk of the history hangs")
            self._hangs = False
            try:
                with trio.fail_after(self._disk_timeout):
                    return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)
            except trio.TooSlowError:
                self._hangs = True
                raise
        except (sqlite3.Error, OSError, trio.TooSlowError) as error:
            self._failed(error)
            return None

    def _failed(self, error: Exception) -> None:
        self.counts.failed += 1
        if self._on_error is not None:
            self._on_error(error)

    # What follows runs in the thread, and touches nothing of the loop's but what its caller waits for.

    def _write_pending(self) -> None:
        batch: list[_Pending] = []
        with contextlib.suppress(IndexError):
            while True:
                batch.append(self._pending.popleft())
        rows = [(each, row) for each in batch if (row := self._row(each)) is not None]
        if not rows:
            return
        try:
            with _transaction(self._connection) as connection:
                connection.executemany(
                    "INSERT INTO response (owner, id, previous, input, output, size, stored)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    [row for _, row in rows],
                )
                self._bound(connection)
        except (sqlite3.Error, OSError) as error:
            for each, _ in rows:
                each.error = error
        else:
            for each, _ in rows:
                each.stored = True

    def _row(self, pending: _Pending) -> tuple[object, ...] | None:
        response = pending.response
        if response is None:
            return None
        try:
            given, said = self._array(response.input), self._array(response.output)
        except Exception as error:  # the hook is not ours, and others wait behind it
            pending.error = error
            return None
        id, previous = _key(response.id), None if response.previous_id is None else _key(response.previous_id)
        size = len(id) + len(previous or b"") + len(given) + len(said) + _ROW
        return pending.owner, id, previous, given, said, size, self._clock()

    def _array(self, items: tuple[bytes, ...]) -> bytes:
        array = b"[" + b",".join(map(self._redact, items)) + b"]"
        read = elements(array)
        if read is None or len(read) != len(items):
            raise ValueError("redact did not return one JSON value for one item")
        return array

    def _bound(self, connection: sqlite3.Connection) -> None:
        """Drop what is too old, and the oldest of what is too much."""
        connection.execute("DELETE FROM response WHERE stored < ?", (self._clock() - self._max_age,))
        (total,) = connection.execute("SELECT bytes FROM total").fetchone()
        excess = total - self._max_bytes
        doomed: list[tuple[int]] = []
        with contextlib.closing(
            connection.execute("SELECT number, size FROM response ORDER BY stored, number")
        ) as rows:
            while excess > 0 and (row := rows.fetchone()) is not None:
                doomed.append((row[0],))
                excess -= row[1]
        connection.executemany("DELETE FROM response WHERE number = ?", doomed)

    def _conversation(self, owner: bytes, response_id: bytes) -> list[bytes] | None:
        links: list[list[bytes]] = []
        size = 0
        next_id: bytes | None = response_id
        oldest = self._clock() - self._max_age
        while next_id is not None:
            row = self._connection.execute(
                "SELECT previous, input, output, size FROM response WHERE owner = ? AND id = ? AND stored >= ?",
                (owner, next_id, oldest),
            ).fetchone()
            if row is None:
                return None
            next_id, given, said = row[0], elements(row[1]), elements(row[2])
            size += row[3]
            if given is None or said is None or size > self._max_recalled or len(links) == MOST_LINKS:
                return None
            links.append([*given, *as_input(said)])
        return [item for link in reversed(links) for item in link]

    def _remove(self, where: str, *values: bytes) -> int:
        with _transaction(self._connection) as connection:
            removed = connection.execute(f"DELETE FROM response WHERE {where}", values).rowcount
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return removed


@contextlib.asynccontextmanager
async def open_history(
    path: str | os.PathLike[str],
    *,
    max_age: float = 30 * 24 * 3600,
    max_bytes: int = 256 * 1024 * 1024,
    max_pending: int = 32 * 1024 * 1024,
    max_recalled: int = 32 * 1024 * 1024,
    disk_timeout: float = 5.0,
    redact: Callable[[bytes], bytes] = redact_json,
    on_error: Callable[[Exception], object] | None = None,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[History]:
    """Open the history in a file, which is made if it is not there. Several processes may share it.

    The file can be read by its owner only, whatever the umask says, and so can a directory that is made for it.

    Args:
        path: of the file. Two more stand beside it, with ``-wal`` and ``-shm`` behind the name.
        max_age: seconds that a response is kept. 30 days, as providers do.
        max_bytes: of items that are kept; the oldest responses go first. The file is somewhat larger.
        max_pending: bytes of items that may wait for the disk; what comes beyond is not stored.
        max_recalled: bytes of one conversation.
        disk_timeout: seconds that a call may take, its wait for its turn included.
        redact: applied to each item before it is stored, in a thread; returns JSON. See `redact_json`.
        on_error: told of what failed.
        clock: what time it is, in seconds since the epoch.

    Raises:
        ConfigurationError: the file or its directory is not safe, or the file is no history or a newer one.
    """
    for name, value in (("max_age", max_age), ("max_bytes", max_bytes), ("disk_timeout", disk_timeout)):
        if not value > 0:
            raise ConfigurationError(f"{name} of the history must be more than 0")
    # The deadline that a locked file meets in SQLite comes before the one that gives the thread up.
    connection = await trio.to_thread.run_sync(_open, Path(path), disk_timeout / 2)
    history = History(
        connection,
        max_age=max_age,
        max_bytes=max_bytes,
        max_pending=max_pending,
        max_recalled=max_recalled,
        disk_timeout=disk_timeout,
        redact=redact,
        on_error=on_error,
        clock=clock,
    )
    try:
        yield history
    finally:
        with trio.move_on_after(disk_timeout, shield=True):
            await trio.to_thread.run_sync(connection.close, abandon_on_cancel=True, limiter=history._limiter)


def _key(text: str) -> bytes:
    """An id as it is stored. It comes from outside, and may hold what is no text: half a surrogate, or NUL."""
    return text.encode("utf-8", "surrogatepass")


def _hashed(owner: str) -> bytes:
    """An owner as it is stored: whoever reads the file does not learn a key that tells clients apart."""
    return hashlib.sha256(_key(owner)).digest()


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All of it, or nothing. The lock is taken at the beginning, where waiting for it cannot deadlock."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled it back already
            connection.execute("ROLLBACK")
        raise


def _open(path: Path, busy: float) -> sqlite3.Connection:
    path = path.absolute()
    try:
        _make_safe(path)
        connection = sqlite3.connect(path, timeout=busy, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise ConfigurationError(
            f"{path} cannot be used as a history ({error}): name another file, or move this one away"
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be opened ({error.strerror}): the history needs a directory that it may write to"
        ) from error
    return connection


def _make_safe(path: Path) -> None:
    """Have a file there that only its owner can read, in a directory where nobody else can put another in its place."""
    for folder in reversed(path.parents):
        with contextlib.suppress(FileExistsError, IsADirectoryError):
            folder.mkdir(mode=0o700)
            folder.chmod(0o700)
    for folder in path.parent.parents:
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ConfigurationError(
                f"everybody may write to {folder}, and could replace what is in it: "
                "name a file elsewhere for the history, or set that directory's sticky bit"
            )
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except NotADirectoryError as error:
        raise ConfigurationError(
            f"{path.parent} is no directory, or a symbolic link: name the directory of the history itself"
        ) from error
    try:
        status = os.fstat(directory)
        mode = stat.S_IMODE(status.st_mode)
        if status.st_uid not in (0, os.geteuid()):
            raise ConfigurationError(
                f"{path.parent} belongs to another user: use a directory of its own for the history"
            )
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigurationError(
                f"others may write to {path.parent} (mode {mode:04o}), and could replace the history: "
                f"use a directory of its own, or chmod 700 {path.parent}"
            )
        for ending in ("", "-wal", "-shm", "-journal"):
            _make_private(directory, path.name + ending, create=not ending)
    finally:
        os.close(directory)


def _make_private(directory: int, name: str, *, create: bool) -> None:
    # What is there is never opened: to close it again would drop the locks that this process has on it. Between a look
    # and a change nobody else can put another file in its place, since the directory is ours.
    if create:
        with contextlib.suppress(FileExistsError):
            file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
            os.close(file)
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode):
        raise ConfigurationError(
            f"{name} is a symbolic link: the history follows none; remove it, or name the file itself"
        )
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or status.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{name} is not a plain file of this user with one name: move it away, or name another file"
        )
    os.chmod(name, 0o600, dir_fd=directory)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new file; refuse a file whose tables are not ours to read."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA journal_size_limit = 1048576")
    with _transaction(connection):
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != _APPLICATION:
            raise ConfigurationError(f"{path} is a database of something else: name another file for the history")
        if version > SCHEMA:
            raise ConfigurationError(
                f"{path} is a history of version {version}, and this sseflow knows up to {SCHEMA}: "
                "use a newer sseflow, or name another file"
            )
        if not tables:
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
