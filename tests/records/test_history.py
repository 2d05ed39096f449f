"""The history of chains of responses: whole or not at all, for its owner only, whatever the disk does."""

# ruff: noqa: ASYNC220, ASYNC221, ASYNC240 - a test may block; what it tests may not

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from sseflow import ConfigurationError
from sseflow.dialects import CompleteResponse, RequestBody
from sseflow.records import History, HistoryCounts, open_history

ROOT = Path(__file__).resolve().parent.parent.parent


def response(id: str, previous: str | None = None, *, given: str = "hi", said: str = "hello") -> CompleteResponse:
    """A complete exchange of one message each."""
    message = {"type": "message", "id": "m", "role": "assistant", "content": said}
    request = RequestBody.parse(json.dumps({"previous_response_id": previous, "input": [{"role": given}]}).encode())
    answer = {"object": "response", "id": id, "status": "completed", "output": [message]}
    assert request is not None
    found = CompleteResponse.of(request, json.dumps(answer).encode())
    assert found is not None
    return found


async def texts(history: History, owner: str, id: str) -> list[str] | None:
    """What was said in a conversation, in order."""
    found = await history.recall(owner, id)
    if found is None:
        return None
    return [item.get("content", item["role"]) for item in map(json.loads, found)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in a directory that is not there yet."""
    return tmp_path / "state" / "history.db"


@pytest.fixture
def open_umask() -> Iterator[None]:
    """The umask of somebody who did not think of it."""
    old = os.umask(0)
    yield
    os.umask(old)


class Clock:
    """The time, as a test says it is."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_conversation_is_recalled_from_its_beginning(path: Path) -> None:
    """Each link's input, then its output as input, the oldest first; it outlives the process."""
    async with open_history(path) as history:
        assert await history.store("ann", response("r1", given="a", said="b"))
        assert await history.store("ann", response("r2", "r1", given="c", said="d"))
        assert await history.store("ann", response("r3", "r2", given="e", said="f"))
        assert history.counts == HistoryCounts(stored=3)
    async with open_history(path) as history:
        assert await texts(history, "ann", "r3") == ["a", "b", "c", "d", "e", "f"]
        assert await texts(history, "ann", "r1") == ["a", "b"]
        found = await history.recall("ann", "r1")
        assert found is not None
        assert json.loads(found[1]) == {"type": "message", "role": "assistant", "content": "b"}
        assert history.counts == HistoryCounts(recalled=3)


async def test_half_a_history_is_none(path: Path) -> None:
    """A link that is missing, wherever it is."""
    async with open_history(path) as history:
        await history.store("ann", response("r2", "r1"))
        await history.store("ann", response("r3", "r2"))
        assert await history.recall("ann", "r3") is None
        assert await history.recall("ann", "r0") is None
        assert history.counts.missed == 2


async def test_a_chain_that_bites_its_tail_is_none(path: Path) -> None:
    """Ids come from outside: one that goes round in a circle ends."""
    async with open_history(path) as history:
        await history.store("ann", response("r1", "r2"))
        await history.store("ann", response("r2", "r1"))
        assert await history.recall("ann", "r2") is None


async def test_another_owners_response_is_not_there(path: Path) -> None:
    """Neither whole, nor as a link, nor to be deleted; and the same id is another response."""
    async with open_history(path) as history:
        await history.store("ann", response("r1", said="ann's"))
        await history.store("bob", response("r2", "r1"))
        assert await history.recall("bob", "r1") is None
        assert await history.recall("bob", "r2") is None
        await history.delete("bob", "r1")
        await history.forget("bob")
        await history.store("bob", response("r1", said="bob's"))
        assert await texts(history, "ann", "r1") == ["hi", "ann's"]
        assert await texts(history, "bob", "r1") == ["hi", "bob's"]


async def test_a_response_that_is_stored_twice_stays_as_it_was(path: Path) -> None:
    """The first one counts, and nothing is counted twice."""
    async with open_history(path) as history:
        assert await history.store("ann", response("r1", said="first"))
        assert await history.store("ann", response("r1", said="second"))
        assert await texts(history, "ann", "r1") == ["hi", "first"]


@pytest.mark.parametrize("id", ["../../etc/passwd", "'; DROP TABLE response; --", "\0", "\ud800", "x" * 100_000])
async def test_an_id_is_data(path: Path, id: str) -> None:
    """Whatever is in it, it is stored, recalled, and deleted."""
    async with open_history(path) as history:
        assert await history.store(id, response(id))
        assert await texts(history, id, id) == ["hi", "hello"]
        assert await history.delete(id, id)
        assert await history.recall(id, id) is None
        assert sorted(each.name for each in path.parent.iterdir()) == ["history.db", "history.db-shm", "history.db-wal"]


async def test_what_is_deleted_is_not_on_the_disk(path: Path) -> None:
    """Neither in the table nor in what was beside it."""
    async with open_history(path) as history:
        await history.store("ann", response("r1", said="the launch code"))
        await history.store("ann", response("r2", said="the other launch code"))
        assert await history.delete("ann", "r1")
        assert await history.recall("ann", "r1") is None
        assert await history.recall("ann", "r2") is not None
        assert await history.forget("ann")
        assert await history.recall("ann", "r2") is None
        assert [each.name for each in path.parent.iterdir() if b"launch code" in each.read_bytes()] == []


async def test_an_owner_is_not_readable_on_the_disk(path: Path) -> None:
    """It may be a client's key."""
    async with open_history(path) as history:
        await history.store("sk-client-key", response("r1"))
        assert [each.name for each in path.parent.iterdir() if b"sk-client-key" in each.read_bytes()] == []


async def test_what_is_too_old_goes(path: Path) -> None:
    """It is not recalled any more, and the next that is stored takes it off the disk."""
    clock = Clock()
    async with open_history(path, max_age=10, clock=clock) as history:
        await history.store("ann", response("r1"))
        clock.now += 10
        assert await history.recall("ann", "r1") is not None
        clock.now += 1
        assert await history.recall("ann", "r1") is None
        await history.store("ann", response("r2"))
        assert _ids(path) == ["r2"]


async def test_what_is_too_much_goes_with_the_oldest_first(path: Path) -> None:
    """After each store the bytes are within their bound, and the newest is there."""
    clock = Clock()
    async with open_history(path, max_bytes=4000, clock=clock) as history:
        for number in range(10):
            clock.now += 1
            assert await history.store("ann", response(f"r{number}", said="x" * 1000))
            assert _total(path) <= 4000
            assert await history.recall("ann", f"r{number}") is not None
        assert _ids(path) == ["r8", "r9"] or _ids(path) == ["r7", "r8", "r9"]


async def test_what_is_larger_than_all_of_it_is_dropped(path: Path) -> None:
    """It would push out everything else."""
    async with open_history(path, max_bytes=4000) as history:
        await history.store("ann", response("r1"))
        assert not await history.store("ann", response("r2", said="x" * 4000))
        assert await history.recall("ann", "r1") is not None
        assert history.counts.dropped == 1


async def test_a_conversation_that_is_too_long_is_none(path: Path) -> None:
    """A request of that size would not be sent, and memory is not unbounded."""
    async with open_history(path, max_recalled=3000) as history:
        await history.store("ann", response("r1", said="x" * 1500))
        await history.store("ann", response("r2", "r1", said="x" * 1500))
        assert await history.recall("ann", "r1") is not None
        assert await history.recall("ann", "r2") is None


async def test_many_at_once_are_all_stored(path: Path) -> None:
    """In fewer transactions than there are responses."""
    async with open_history(path) as history:
        statements: list[str] = []
        history._connection.set_trace_callback(statements.append)
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(history.store, "ann", response(f"r{number}"))
        assert history.counts == HistoryCounts(stored=50)
        assert len(_ids(path)) == 50
        assert statements.count("COMMIT") < 50


async def test_what_waits_for_the_disk_is_bounded(path: Path) -> None:
    """What comes beyond is dropped, and counted."""
    async with open_history(path, max_pending=1000) as history:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(history.store, "ann", response(f"r{number}"))
        assert history.counts.stored + history.counts.dropped == 10
        assert history.counts.dropped > 0
        assert await history.store("ann", response("later"))


async def test_nothing_secret_is_stored(path: Path) -> None:
    """What is secret by its name is redacted; everything else comes back as the bytes that came."""
    body = RequestBody.parse(
        b'{"input": [{"role" : "user", "content": 1.50, "x": {"api_key": "sk-1"}}, {"role":"b"  }]}'
    )
    assert body is not None
    found = CompleteResponse.of(body, b'{"object": "response", "id": "r1"}')
    assert found is not None
    async with open_history(path) as history:
        await history.store("ann", found)
        assert await history.recall("ann", "r1") == [
            b'{"role" : "user", "content": 1.50, "x": {"api_key": "[REDACTED]"}}',
            b'{"role":"b"  }',
        ]


@pytest.mark.parametrize("redacted", [b"no json", b"1,2", b""])
async def test_a_redaction_that_goes_wrong_stores_nothing(path: Path, redacted: bytes) -> None:
    """Not what it was given, and not what it returned."""
    errors: list[Exception] = []
    async with open_history(path, redact=lambda item: redacted, on_error=errors.append) as history:
        assert not await history.store("ann", response("r1"))
        assert await history.recall("ann", "r1") is None
        assert history.counts.failed == len(errors) == 1


async def test_a_redaction_that_raises_stops_nobody_else(path: Path) -> None:
    """Its error is told."""

    def redact(item: bytes) -> bytes:
        if b"bad" in item:
            raise KeyError("bug")
        return item

    errors: list[Exception] = []
    async with open_history(path, redact=redact, on_error=errors.append) as history:
        async with trio.open_nursery() as nursery:
            for id, said in (("r1", "good"), ("r2", "bad"), ("r3", "good")):
                nursery.start_soon(history.store, "ann", response(id, said=said))
        assert sorted(_ids(path)) == ["r1", "r3"]
        assert [type(error) for error in errors] == [KeyError]


async def test_a_full_disk_breaks_nothing(path: Path) -> None:
    """What does not fit is not stored, and told; what is there is still recalled, and small things still fit."""
    errors: list[Exception] = []
    async with open_history(path, on_error=errors.append) as history:
        assert await history.store("ann", response("r1"))
        (pages,) = history._connection.execute("PRAGMA page_count").fetchone()
        history._connection.execute(f"PRAGMA max_page_count = {pages + 1}")
        assert not await history.store("ann", response("r2", said="x" * 100_000))
        assert [str(error) for error in errors] == ["database or disk is full"]
        assert await history.recall("ann", "r1") is not None
        assert await history.store("ann", response("r3"))
        assert history.counts == HistoryCounts(stored=2, failed=1, recalled=1)


async def test_a_locked_disk_breaks_nothing(path: Path) -> None:
    """Another process that holds the lock costs the deadline, and no more."""
    errors: list[Exception] = []
    async with open_history(path, disk_timeout=0.2, on_error=errors.append) as history:
        with _connected(path) as other:
            other.execute("BEGIN IMMEDIATE")
            assert not await history.store("ann", response("r1"))
            assert await history.recall("ann", "r1") is None
            other.execute("ROLLBACK")
        assert [str(error) for error in errors] == ["database is locked"]
        assert await history.store("ann", response("r1"))


async def test_a_disk_that_hangs_is_waited_for_once(path: Path) -> None:
    """The call that meets it has its deadline; the next are refused at once, until the disk is back."""
    errors: list[Exception] = []
    hangs = trio.Event()

    def redact(item: bytes) -> bytes:
        if b"hang" in item:
            trio.from_thread.run_sync(hangs.set)
            read.recv(1)
        return item

    read, write = socket.socketpair()
    with read, write:
        async with open_history(path, disk_timeout=0.1, redact=redact, on_error=errors.append) as history:
            assert not await history.store("ann", response("r1", said="hang"))
            assert hangs.is_set()
            assert not await history.store("ann", response("r2"))
            assert await history.recall("ann", "r1") is None
            assert [type(error) for error in errors] == [trio.TooSlowError] * 3
            assert [str(error) for error in errors[1:]] == ["the disk of the history hangs"] * 2
            write.send(b"x")
            while history._limiter.available_tokens == 0:
                await trio.lowlevel.checkpoint()
            assert await history.store("ann", response("r3"))


async def test_a_cancelled_store_leaves_the_history_whole(path: Path) -> None:
    """Who is cancelled gives up his response; who comes behind is not held up."""
    async with open_history(path) as history:
        with trio.CancelScope() as scope:
            scope.cancel()
            await history.store("ann", response("r1"))
        assert scope.cancelled_caught
        assert history._held == 0
        assert await history.store("ann", response("r2"))
        assert await history.recall("ann", "r2") is not None


WRITER = """
import sys, trio
from sseflow.records import open_history
from tests.records.test_history import response

async def main():
    async with open_history(sys.argv[1]) as history:
        for number in range(1_000_000):
            await history.store("ann", response(f"r{number}", f"r{number - 1}" if number else None, said="x" * 5000))
            print(number, flush=True)

trio.run(main)
"""


async def test_a_killed_writer_leaves_a_history(path: Path) -> None:
    """Everything that was said to be stored is there, and more can be stored."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        last = -1
        while last < 20:
            last = int(writer.stdout.readline())
        writer.kill()
        last = int((writer.stdout.read().split(b"\n")[-2:-1] or [b"%d" % last])[0])
    async with open_history(path) as history:
        found = await history.recall("ann", f"r{last}")
        assert found is not None
        assert len(found) == 2 * (last + 1)
        assert history._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert await history.store("ann", response("later", f"r{last}"))


async def test_several_processes_may_open_it_at_once(path: Path) -> None:
    """Also where none has been before, as workers do."""
    program = (
        "import sys, trio\nfrom sseflow.records import open_history\n"
        "from tests.records.test_history import response\n"
        "async def main():\n"
        "    async with open_history(sys.argv[1]) as history:\n"
        "        assert await history.store('ann', response(sys.argv[2]))\n"
        "trio.run(main)\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", program, str(path), f"r{number}"], cwd=ROOT) for number in range(4)
    ]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    assert sorted(_ids(path)) == ["r0", "r1", "r2", "r3"]


async def test_opening_it_again_drops_no_lock(path: Path) -> None:
    """A process may have it open twice, as while it changes its configuration: what the one locks stays locked."""
    lock = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    async with open_history(path) as history:
        history._connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConfigurationError, match="database is locked"):
            async with open_history(path, disk_timeout=0.1):
                pass
        other = subprocess.run([sys.executable, "-c", lock, str(path)], capture_output=True, text=True, check=False)
        assert "database is locked" in other.stderr
        history._connection.execute("ROLLBACK")


async def test_a_damaged_row_is_none(path: Path) -> None:
    """What is read is checked, whoever wrote it."""
    async with open_history(path) as history:
        await history.store("ann", response("r1"))
        await history.store("ann", response("r2", "r1"))
        with _connected(path) as other:
            other.execute("UPDATE response SET output = ? WHERE id = ?", (b'[{"type":', b"r1"))
        assert await history.recall("ann", "r2") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
async def test_another_users_directory_is_refused(path: Path) -> None:
    """He could replace what is in it."""
    path.parent.mkdir()
    os.chown(path.parent, 12345, -1)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        async with open_history(path):
            pass


async def test_a_place_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """The message says what is in the way."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"cannot be opened \(Not a directory\)|is no directory"):
        async with open_history(tmp_path / "file" / "below" / "history.db"):
            pass


@pytest.mark.usefixtures("open_umask")
async def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    """Whatever the umask: 0600 in 0700, what SQLite puts beside it included."""
    path = tmp_path / "a" / "b" / "history.db"
    async with open_history(path) as history:
        await history.store("ann", response("r1"))
        assert {each.name: _mode(each) for each in path.parent.iterdir()} == dict.fromkeys(
            ["history.db", "history.db-shm", "history.db-wal"], 0o600
        )
    assert (_mode(tmp_path / "a"), _mode(path.parent)) == (0o700, 0o700)


async def test_a_file_that_others_could_read_is_closed_to_them(path: Path) -> None:
    """One that was made with other rights gets the right ones."""
    path.parent.mkdir()
    path.touch()
    path.chmod(0o644)
    async with open_history(path):
        assert _mode(path) == 0o600


@pytest.mark.parametrize("name", ["history.db", "history.db-wal", "history.db-shm", "history.db-journal"])
async def test_a_symbolic_link_is_not_followed(path: Path, tmp_path: Path, name: str) -> None:
    """Nothing is written to where it leads."""
    path.parent.mkdir()
    (path.parent / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match=f"{name} is a symbolic link: .*remove it"):
        async with open_history(path):
            pass
    assert not (tmp_path / "elsewhere").exists()


async def test_a_directory_that_is_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    """Whoever can change the link could change the history."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigurationError, match="or a symbolic link"):
        async with open_history(tmp_path / "link" / "history.db"):
            pass
    assert list((tmp_path / "real").iterdir()) == []


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
async def test_a_directory_that_others_may_write_to_is_refused(path: Path, mode: int) -> None:
    """The message says which, what is wrong with it, and what to do."""
    path.parent.mkdir()
    path.parent.chmod(mode)
    with pytest.raises(ConfigurationError, match=rf"{path.parent} \(mode {mode:04o}\).*chmod 700 {path.parent}"):
        async with open_history(path):
            pass


async def test_a_directory_in_one_that_everybody_may_write_to_is_refused(path: Path, tmp_path: Path) -> None:
    """It could be replaced as a whole."""
    path.parent.mkdir()
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigurationError, match=rf"everybody may write to {tmp_path},"):
        async with open_history(path):
            pass


async def test_a_file_with_two_names_is_refused(path: Path, tmp_path: Path) -> None:
    """The other name may stand where others read."""
    path.parent.mkdir()
    (tmp_path / "other").touch()
    path.hardlink_to(tmp_path / "other")
    with pytest.raises(ConfigurationError, match="not a plain file of this user with one name"):
        async with open_history(path):
            pass


async def test_a_newer_history_is_refused(path: Path) -> None:
    """With both versions, and it is left as it was."""
    async with open_history(path):
        pass
    with _connected(path) as other:
        other.execute("PRAGMA user_version = 7")
    with pytest.raises(ConfigurationError, match="version 7, and this sseflow knows up to 1"):
        async with open_history(path):
            pass


async def test_another_programs_database_is_refused(path: Path) -> None:
    """Nothing is added to it."""
    path.parent.mkdir()
    with _connected(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    with pytest.raises(ConfigurationError, match="a database of something else"):
        async with open_history(path):
            pass
    with _connected(path) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


async def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    """And left as it was."""
    path.parent.mkdir()
    path.write_bytes(b"a diary, not a database" * 100)
    with pytest.raises(ConfigurationError, match=r"cannot be used as a history .*move this one away"):
        async with open_history(path):
            pass
    assert path.read_bytes() == b"a diary, not a database" * 100


@pytest.mark.parametrize("name", ["max_age", "max_bytes", "disk_timeout"])
async def test_bounds_must_be_more_than_nothing(path: Path, name: str) -> None:
    """The message names the option."""
    with pytest.raises(ConfigurationError, match=f"{name} of the history"):
        async with open_history(path, **{name: 0}):  # type: ignore[arg-type]
            pass


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program at the same file."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def _ids(path: Path) -> list[str]:
    with _connected(path) as connection:
        return [id.decode() for (id,) in connection.execute("SELECT id FROM response ORDER BY number")]


def _total(path: Path) -> int:
    with _connected(path) as connection:
        (total,) = connection.execute("SELECT bytes FROM total").fetchone()
        assert (total,) == connection.execute("SELECT sum(size) FROM response").fetchone()
    return int(total)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
