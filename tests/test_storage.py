"""What a place for a study's files must hold, whether it is a folder, memory, or a server of S3."""

import errno
import hashlib
import logging
import random
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mnemoscope import object_storage, retries
from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.object_storage import ObjectStorage
from mnemoscope.storage import LocalStorage, Storage, is_address, local_folder, storage_of
from object_stores import (
    SECRET,
    FailingFileSystem,
    Faults,
    LateFileSystem,
    failing_proxy,
    forget_filesystems,
    register,
    s3_server,
    stored,
)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(params=["local", "memory", "s3"])
def place(request, tmp_path) -> Storage:
    """An empty place of each kind."""
    if request.param == "local":
        return storage_of(tmp_path / "study")
    if request.param == "s3":
        request.getfixturevalue("endpoint")
        return storage_of(f"s3://bkt/{tmp_path.name}")
    return storage_of(f"memory://{tmp_path.name}")


@pytest.fixture
def impatient(monkeypatch) -> list[float]:
    """Waits that were asked for, none of which is taken."""
    waits: list[float] = []
    monkeypatch.setattr(retries.time, "sleep", waits.append)
    return waits


def test_what_was_written_is_read_by_name(place):
    """Content and size of each file that is there; the others are left out; a file is replaced whole."""
    names = ["scores/a/x.json", "scores/b/y.json", "z"]
    assert place.read_many(names) == {} and place.sizes(names) == {}
    place.write(names[0], b"one")
    place.write(names[1], b"")
    assert place.read_many(names) == {names[0]: b"one", names[1]: b""}
    assert place.sizes(names) == {names[0]: 3, names[1]: 0}
    place.write(names[0], b"another")
    assert place.read_many(names[:1]) == {names[0]: b"another"}
    assert place.list_names("scores") == ["a", "b"] and place.list_names("scores/a") == ["x.json"]
    assert place.list_names("nothing") == []


def test_hashes_are_those_of_the_bytes(place, monkeypatch):
    """SHA-256 of 20 files, read in pieces; the reason for one that is not there."""
    monkeypatch.setattr(object_storage, "PIECE_BYTES", 7)
    contents = {f"n/{number}": bytes([number]) * number for number in range(20)}
    for name, content in contents.items():
        place.write(name, content)
    found = dict(place.hashes(["n/none", *contents]))
    assert isinstance(found.pop("n/none"), OSError)
    assert found == {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def test_who_creates_first_stays(place):
    """The content that is there then comes back: one's own, or that of who came first."""
    assert place.create("run.json", b"mine") == b"mine"
    assert place.create("run.json", b"yours") == b"mine"
    assert place.read_many(["run.json"]) == {"run.json": b"mine"}


def test_of_many_that_create_at_once_one_wins(endpoint):
    """Eight threads put different content under one name of the server: all of them are told the same."""
    place, told = storage_of("s3://bkt/race"), list[bytes]()
    threads = [
        threading.Thread(target=lambda mine=bytes([number]): told.append(place.create("x", mine)))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 8 and set(told) == {place.read_many(["x"])["x"]}


def test_what_is_set_aside_is_no_table(place):
    """Both files under the first number that is free for both; what is not there is left out; again: the next one."""
    for content in (b"1", b"2"):
        place.write("s/t.parquet", content)
        place.write("s/t.json", content)
        place.set_aside(["s/t.json", "s/t.parquet", "s/none"])
    place.write("s/t.json", b"3")
    place.set_aside(["s/t.json", "s/t.parquet"])
    kept = {f"t.{kind}.damaged-{number}" for kind in ("json", "parquet") for number in (1, 2)} | {"t.json.damaged-3"}
    assert set(place.list_names("s")) == kept
    assert place.read_many(["s/t.parquet.damaged-2", "s/t.json.damaged-3"]) == {
        "s/t.parquet.damaged-2": b"2",
        "s/t.json.damaged-3": b"3",
    }


def test_removing_is_final_and_may_be_repeated(place):
    """Gone, and no complaint where nothing is."""
    place.write("manifest.json", b"{}")
    place.remove("manifest.json")
    place.remove("manifest.json")
    assert place.read_many(["manifest.json"]) == {}


def test_whole_files_go_both_ways(endpoint, tmp_path):
    """A file of 12 MB is there as it was here, and comes back; one that is not there does not."""
    content = random.Random(0).randbytes(12_000_000)
    (tmp_path / "up").write_bytes(content)
    place = storage_of("s3://bkt/whole")
    assert isinstance(place, ObjectStorage)
    place.upload("big", tmp_path / "up")
    assert place.download("big", tmp_path / "down") and (tmp_path / "down").read_bytes() == content
    assert not place.download("none", tmp_path / "no")


def test_requests_that_fail_are_made_again(impatient):
    """One in five fails, some after they were obeyed: everything is as if none had, and every wait was bounded."""
    register()
    FailingFileSystem.faults = faults = Faults(seed=1)
    place = storage_of("failing://laws")
    names = [f"a/{number}" for number in range(60)]
    for name in names:
        assert place.create(name, name.encode()) == name.encode()
    assert place.read_many([*names, "a/none"]) == {name: name.encode() for name in names}
    assert place.sizes(names) == {name: len(name) for name in names}
    assert len(place.list_names("a")) == 60
    place.set_aside(names[:5])
    for name in names[5:10]:
        place.remove(name)
    assert set(stored("failing://laws")) == {*names[10:], *(f"{name}.damaged-1" for name in names[:5])}
    print(faults)
    assert faults.injected.total() > 30 and set(faults.injected) == {"reset", "time is up", "busy", "lost"}
    assert len(impatient) > 30  # the others are met by calls that fsspec makes for itself, and makes again
    assert max(impatient) <= retries.MOST_SECONDS


def test_a_server_that_fails_one_request_in_five(endpoint, monkeypatch, impatient):
    """503, 500, broken connections and lost answers between the client of S3 and its server: the same files."""
    faults = Faults(seed=2)
    with failing_proxy(endpoint, faults) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy)
        forget_filesystems()
        place = storage_of("s3://bkt/shaky")
        names = [f"a/{number}" for number in range(20)]
        for name in names:
            assert place.create(name, name.encode()) == name.encode()
        assert place.read_many([*names, "a/none"]) == {name: name.encode() for name in names}
        place.set_aside(names[:3])
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    forget_filesystems()
    assert set(stored("s3://bkt/shaky")) == {*names[3:], *(f"{name}.damaged-1" for name in names[:3])}
    print(faults)
    assert faults.injected.total() > 10


def test_waits_double_and_differ(monkeypatch):
    """Between half and all of 0.1 x 2^number seconds, never more than 20; a second worker's are others."""
    for number in range(1, 12):
        longest = min(20.0, 0.1 * 2**number)
        waits = [retries.wait_seconds(number) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest


def test_a_store_that_never_answers_is_given_up(impatient, caplog):
    """Ten tries, nine waits, each logged; then one line that says what stays and what to do."""

    def refuse() -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with caplog.at_level(logging.INFO), pytest.raises(StoreError, match=r"^s3://b/x: no answer in 10 tries \(.*reset"):
        retries.persist(refuse, "s3://b/x")
    assert len(impatient) == 9 and len(caplog.records) == 9
    assert "try 2 follows in" in caplog.records[0].getMessage()


class AnswerError(Exception):
    """An error with an HTTP status, as the clients of stores have them."""

    __module__ = "botocore.exceptions"

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize(
    ("error", "is_transient"),
    [
        *((AnswerError(status), True) for status in (408, 409, 429, 500, 502, 503, 504)),
        *((AnswerError(status), False) for status in (301, 400, 401, 403, 404, 412, 501)),
        (TimeoutError(), True),
        (ConnectionError(), True),
        (OSError(errno.EBUSY, "SlowDown"), True),
        (PermissionError(errno.EACCES, "no"), False),
        (FileNotFoundError(), False),
        (OSError(errno.ENOSPC, "full"), False),
        (ValueError("a bug"), False),
    ],
)
def test_what_may_pass(error, is_transient):
    """Time, connections, a server's own trouble: again. Permission, absence, a full disk, a bug of ours: at once."""
    assert retries.is_transient(error) == is_transient


def test_refusals_come_at_once_and_say_what_to_do(impatient):
    """No second try; credentials are asked for, a bucket is asked for, and a bug stays the bug that it is."""

    def refuse(error: Exception) -> None:
        raise error

    with pytest.raises(StoreError, match=r"^s3://b/x: refused \(.*Access Denied\); expected credentials that may read"):
        retries.persist(lambda: refuse(PermissionError(13, "Access Denied")), "s3://b/x")
    with pytest.raises(ZeroDivisionError):
        retries.persist(lambda: refuse(ZeroDivisionError()), "s3://b/x")
    assert impatient == []


def test_a_bucket_that_is_not_there_is_told(endpoint, impatient):
    """One line with the place and the server's reason."""
    with pytest.raises(StoreError, match=r"^s3://nobody/study/x: cannot be written \(.*\); expected a bucket that"):
        storage_of("s3://nobody/study").write("x", b"")


def test_messages_open_no_door(monkeypatch):
    """Neither passwords in addresses, nor signed queries, keys, or what the environment calls secret."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    error = OSError(
        f"cannot connect to https://me:{SECRET}@host/x?X-Amz-Signature=abc as AKIAABCDEFGHIJKLMNOP {SECRET}"
    )
    text = retries.reason(error)
    assert text == "cannot connect to https://host/x as ... ..."
    with pytest.raises(StoreError, match=r"^s3://bkt/x: given with credentials or a query") as caught:
        storage_of(f"s3://me:{SECRET}@bkt/x")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("password", [SECRET, f"with/{SECRET}", f"with@{SECRET}", f"/{SECRET}/@/"])
def test_passwords_in_addresses_are_neither_taken_nor_shown(password):
    """Those of S3 have slashes; whichever way the address is given, and wherever it is not allowed."""
    with pytest.raises(StoreError, match=r"^s3://bkt/x: given with credentials") as address:
        storage_of(f"s3://AKIAX:{password}@bkt/x")
    with pytest.raises(StoreError, match=r"^s3:/bkt/x: an address that was made a path") as path:
        storage_of(f"s3:/AKIAX:{password}@bkt/x")
    with pytest.raises(ConfigError, match=r"^--out: s3://bkt/x given") as option:
        local_folder("--out", f"s3://AKIAX:{password}@bkt/x")
    assert not any(SECRET in str(each.value) for each in (address, path, option))
    assert str(storage_of("abfs://container@account/x")) == "abfs://container@account/x"


def test_what_is_no_object_store_is_refused():
    """A file there would be seen before it is whole; and an address without a folder is not taken for a path."""
    for address in ("local:///tmp/x", "sftp://host/x", "https://host/x", "simplecache::s3://bkt/x"):
        with pytest.raises(StoreError, match=r"is no object store; expected such as s3://bucket/x, or a folder"):
            storage_of(address)
    for address in ("s3://", "memory:///"):
        with pytest.raises(StoreError, match=r"://: names no folder|:///: names no folder"):
            storage_of(address)


def test_a_mistyped_endpoint_is_told_at_once(endpoint, monkeypatch, impatient):
    """Without its https://, or a bucket of a name that none can have: one line, no second try, no traceback."""
    with pytest.raises(StoreError, match=r"^s3://a_ b/x/y: refused \(.*\); expected an address"):
        storage_of("s3://a_ b/x").sizes(["y"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.removeprefix("http://"))
    forget_filesystems()
    with pytest.raises(
        StoreError, match=r"^s3://bkt/x/y: refused \(Invalid endpoint: .*\); expected an address such as"
    ):
        storage_of("s3://bkt/x").sizes(["y"])
    forget_filesystems()
    assert impatient == []


def test_a_server_that_says_nothing_is_asked_thrice_a_try(monkeypatch, impatient, caplog):
    """Two tries of ours are six connections, not the thirty that s3fs would make of them; long ones are told of."""
    pytest.importorskip("s3fs")
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        options = {"config_kwargs": {**object_storage._S3["config_kwargs"], "read_timeout": 0.2}}
        patch.setattr(object_storage, "_OPTIONS", {"s3": options})
        patch.setattr(retries, "MAX_TRIES", 2)
        patch.setattr(retries, "NOTICED_SECONDS", 0.1)
        forget_filesystems()
        with pytest.raises(StoreError, match="no answer in 2 tries"):
            storage_of("s3://bkt/x").read_many(["y"])
        server.settimeout(0.5)
        connections: list[socket.socket] = []
        with suppress(TimeoutError):
            while True:
                connections.append(server.accept()[0])
        for each in connections:
            each.close()
    forget_filesystems()
    assert len(connections) == 6
    assert "try 2 follows in" in caplog.text


def test_a_missing_package_is_named(monkeypatch):
    """S3 by our extra, others by theirs; nonsense by what an address looks like."""
    forget_filesystems()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(StoreError, match=r"s3 needs a package .*; pip install 'mnemoscope\[s3\]'"):
        storage_of("s3://bkt/x").sizes(["y"])
    with pytest.raises(StoreError, match=r"nonsense://x: no place for results \(.*\); expected such as s3://bucket/x"):
        storage_of("nonsense://x").sizes(["y"])
    with pytest.raises(StoreError, match=r"memory://: names no folder"):
        storage_of("memory://")


def test_what_is_an_address():
    """Protocols are; paths are not, nor file://, which is a path; an address that lost a slash is no folder."""
    assert all(map(is_address, ("s3://b/x", "memory://x", "gs://b")))
    assert not any(map(is_address, ("x", "/tmp/x", "file:///tmp/x", Path("s3://b"))))
    assert storage_of("file:///tmp/x") == LocalStorage(Path("/tmp/x"))
    with pytest.raises(StoreError, match=r"s3:/b/x: an address that was made a path; expected it as text"):
        storage_of(Path("s3://b/x"))
    with pytest.raises(ConfigError, match="--out: s3://b/x given; expected a folder of this machine"):
        local_folder("--out", "s3://b/x")


def test_lists_may_come_late():
    """The filesystem of these tests hides what is new from lists and from nothing else."""
    register()
    place = storage_of("late://habit")
    place.write("a/x", b"1")
    assert place.list_names("a") == [] and place.sizes(["a/x"]) == {"a/x": 1}
    LateFileSystem.settle()
    assert place.list_names("a") == ["x"]


def test_requests_are_made_together(monkeypatch):
    """Eight reads wait for one another: they are under way at once."""
    barrier = threading.Barrier(8, timeout=30)

    class Together:
        def cat_file(self, path: str) -> bytes:
            barrier.wait()
            return path.encode()

    monkeypatch.setattr(object_storage, "_filesystem", lambda address, process: (Together(), "r"))
    names = [str(number) for number in range(8)]
    assert ObjectStorage("s3://b/r").read_many(names) == {name: f"r/{name}".encode() for name in names}
