"""Object stores for tests: a server of S3 on loopback, one whose requests fail, filesystems with bad habits."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Final

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from mnemoscope import object_storage
from mnemoscope.config import CountsConfig, StudyConfig, TracesConfig
from mnemoscope.coverage import audit_coverage, find_derived_faults
from mnemoscope.mirror import INDEX_FILE, Mirror
from mnemoscope.status import read_status
from mnemoscope.store import open_study
from studies import make_study

SECRET: Final = "not-to-be-seen-anywhere"
BUSY: Final = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
BROKEN: Final = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>We are sorry.</Message></Error>"


@contextmanager
def s3_server() -> Iterator[str]:
    """The endpoint of a server with a bucket `bkt`, in the environment too, as a user would have it."""
    boto3 = pytest.importorskip("boto3")
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "testing"),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", endpoint),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ):
            patch.setenv(name, value)
        forget_filesystems()
        # One process has one store, whichever of its servers is asked, and the last module's study is still there.
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")).close()
        boto3.client("s3").create_bucket(Bucket="bkt")
        yield endpoint
    server.stop()
    forget_filesystems()


def forget_filesystems() -> None:
    """Open addresses anew: they were opened with another endpoint."""
    object_storage._filesystem.cache_clear()
    fsspec.AbstractFileSystem.clear_instance_cache()
    with contextlib.suppress(ImportError):
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()


class Faults:
    """Which requests fail, and how: one in five, by a seed."""

    def __init__(self, seed: int = 0, share: float = 0.2) -> None:
        self._random = random.Random(seed)
        self._share = share
        self._lock = threading.Lock()
        self.num_requests = 0
        self.injected: Counter[str] = Counter()

    def draw(self, *kinds: str) -> str | None:
        """A kind of fault for the next request; None for none."""
        with self._lock:
            self.num_requests += 1
            kind = self._random.choice(kinds) if self._random.random() < self._share else None
            if kind is not None:
                self.injected[kind] += 1
            return kind

    def __str__(self) -> str:
        return f"{self.injected.total()} of {self.num_requests} requests failed: {dict(self.injected)}"


@contextmanager
def failing_proxy(endpoint: str, faults: Faults) -> Iterator[str]:
    """The endpoint of a server before another that answers a fifth of the requests with 503, 500, or not at all.

    `lost`: the request was obeyed, and the answer never came.
    """
    host, _, port = endpoint.removeprefix("http://").partition(":")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_request(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = faults.draw("busy", "broken", "reset", "lost")
            if kind in ("busy", "broken"):
                self.reply(503 if kind == "busy" else 500, [], BUSY if kind == "busy" else BROKEN)
                return
            if kind != "reset":
                answer = self.forward(body)
            if kind in ("reset", "lost"):
                self.close_connection = True
                return
            self.reply(*answer)

        def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(host, int(port), timeout=60)
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            content = response.read()
            connection.close()
            return response.status, response.getheaders(), content

        def reply(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response_only(status)
            is_head = self.command == "HEAD"
            for name, value in headers:
                if name.lower() not in ("connection", "transfer-encoding") and (
                    is_head or name.lower() != "content-length"
                ):
                    self.send_header(name, value)
            if not is_head and status != 204:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if not is_head:
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_request

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class _OwnMemory(MemoryFileSystem):
    """Files in memory, apart from those of memory://."""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace(f"{cls.protocol}://", "memory://", 1))


class FailingFileSystem(_OwnMemory):
    """failing://: every call of it is a request that may fail, before it was obeyed or after."""

    protocol = "failing"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    faults: ClassVar[Faults] = Faults()

    @classmethod
    def request(cls, call: Callable[[], Any]) -> Any:
        kind = cls.faults.draw("reset", "time is up", "busy", "lost")
        if kind == "reset":
            raise ConnectionResetError(104, "Connection reset by peer")
        if kind == "time is up":
            raise TimeoutError("no answer within 60 seconds")
        if kind == "busy":
            raise OSError(16, "Please reduce your request rate.")
        answer = call()
        if kind == "lost":
            raise ConnectionError("the answer was lost")
        return answer

    def cat_file(self, *given: Any, **more: Any) -> Any:
        return self.request(lambda: super(FailingFileSystem, self).cat_file(*given, **more))

    def info(self, *given: Any, **more: Any) -> Any:
        return self.request(lambda: super(FailingFileSystem, self).info(*given, **more))

    def ls(self, *given: Any, **more: Any) -> Any:
        return self.request(lambda: super(FailingFileSystem, self).ls(*given, **more))

    def pipe_file(self, *given: Any, **more: Any) -> Any:
        return self.request(lambda: super(FailingFileSystem, self).pipe_file(*given, **more))

    def put_file(self, *given: Any, **more: Any) -> Any:
        return self.request(lambda: super(FailingFileSystem, self).put_file(*given, **more))

    def get_file(self, *given: Any, **more: Any) -> Any:
        return self.request(lambda: super(FailingFileSystem, self).get_file(*given, **more))

    def rm_file(self, *given: Any, **more: Any) -> Any:
        return self.request(lambda: super(FailingFileSystem, self).rm_file(*given, **more))

    def cp_file(self, *given: Any, **more: Any) -> Any:
        return self.request(lambda: super(FailingFileSystem, self).cp_file(*given, **more))


class LateFileSystem(_OwnMemory):
    """late://: lists know nothing that was put since `settle`; by its name everything is there at once."""

    protocol = "late"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    settled: ClassVar[set[str]] = set()
    num_hidden: ClassVar[int] = 0

    @classmethod
    def settle(cls) -> None:
        cls.settled = set(cls.store)

    def ls(self, path: str, detail: bool = True, **more: Any) -> Any:
        found = super().ls(path, detail=True, **more)
        shown = [
            each
            for each in found
            if any(name == each["name"] or name.startswith(f"{each['name']}/") for name in self.settled)
        ]
        type(self).num_hidden += len(found) - len(shown)
        return shown if detail else [each["name"] for each in shown]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where mirrors will lie on a machine that never saw a study."""
    return another_machine(tmp_path, monkeypatch, "cache") / "mirrors"


def another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Path:
    """Its cache, which is empty."""
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / name))
    return tmp_path / name


def traced_study(place: Path) -> StudyConfig:
    """11 members and 5 of a control in shards of 4, traced and counted: 5 shards."""
    return make_study(place, num_rows=11, num_control=5, traces=TracesConfig(), counts=CountsConfig())


def read_folder(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def facts_of(files: dict[str, bytes]) -> dict[str, bytes]:
    """Files without what only an address has, and the manifest without its provenance."""
    kept = {name: content for name, content in files.items() if name != INDEX_FILE and not name.startswith("models/")}
    if "manifest.json" in kept:
        manifest = json.loads(kept["manifest.json"])
        manifest.pop("provenance")
        kept["manifest.json"] = json.dumps(manifest).encode()
    return kept


def assert_whole(address: str, expected: dict[str, bytes]) -> None:
    """The tables and the manifest of the study in a folder, every row once, every file what its record says."""
    found = facts_of(stored(address))
    assert sorted(found) == sorted(name for name in expected if not name.startswith("analyses/"))
    assert [name for name in found if found[name] != expected[name]] == []
    study = open_study(address)
    assert all(audit_coverage(study, label).is_complete for label in study.runs)
    assert not any(find_derived_faults(study).values())
    assert Mirror.of(address).find_faults() == {}
    assert read_status(address).is_complete


def register() -> None:
    """Make the addresses known to fsspec."""
    for kind in (FailingFileSystem, LateFileSystem):
        fsspec.register_implementation(kind.protocol, kind, clobber=True)


def stored(address: str) -> dict[str, bytes]:
    """Every file at an address, by its name there; read past all bad habits."""
    protocol, _, root = address.partition("://")
    if protocol in ("memory", "failing", "late"):
        kind = {"memory": MemoryFileSystem, "failing": FailingFileSystem, "late": LateFileSystem}[protocol]
        place = f"/{root}/"
        return {name[len(place) :]: file.getvalue() for name, file in kind.store.items() if name.startswith(place)}
    import boto3

    client = boto3.client("s3")
    bucket, _, prefix = root.partition("/")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
    return {key[len(prefix) + 1 :]: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def count_stored(address: str) -> int:
    """How many files are at an address of the server."""
    import boto3

    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    return int(boto3.client("s3").list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["KeyCount"])


def replace_stored(address: str, name: str, content: bytes | None) -> None:
    """Put other content at a name there, or take it away: what befalls a store that nobody watches."""
    filesystem, root = fsspec.core.url_to_fs(address)
    if content is None:
        filesystem.rm_file(f"{root}/{name}")
    else:
        filesystem.pipe_file(f"{root}/{name}", content)


def environment() -> dict[str, str]:
    """That of a process which imports what this one can."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
