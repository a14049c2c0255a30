"""The study at an address, on this machine: what is there is pulled, what is made of it here is pushed.

    index.json    at the address alone: size and sha256 of every file but scores, study.toml and manifest.json

Scores are put straight to the address by whoever scores. Everything after that is made in the mirror, a folder in the
cache, as in any study's folder. Files go before the records that speak of them, both before the index, and the manifest
goes last: a push that was killed has left what nobody reads, and is done again, from this mirror or another machine's.
Nothing is found by listing. What an index lacks, since two were written at once, or what does not have the checksum
that it says, is not taken, and so made again: from the same facts, and the same. Beside the mirror lies what a pull
brought: only what was made here since is pushed over another's, so that what is old never replaces what is new.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, NamedTuple, final

from mnemoscope.cache import cache_folder
from mnemoscope.errors import StoreError
from mnemoscope.files import TEMPORARY_SUFFIX, hash_file, replacing, telling_refusals, write_atomically
from mnemoscope.manifest import MANIFEST_FILE
from mnemoscope.object_storage import ObjectStorage
from mnemoscope.runs import STUDY_FILE, Run, read_run, read_runs, read_study, run_name
from mnemoscope.storage import LocalStorage, storage_of
from mnemoscope.store import ShardRecord, Study, read_records, record_name, study_at, table_name

INDEX_FILE: Final = "index.json"
_PULLED_FILE: Final = "pulled.json"
"""Beside the mirror."""
_NUM_AT_ONCE: Final = 16
_MOST_PASSES: Final = 20
_OWN: Final = ("scores", "models", STUDY_FILE, MANIFEST_FILE, INDEX_FILE)
"""What the index does not list."""
_CLAIMED: Final = ("traces", "counts", "predictions", "flips")
"""What a manifest says to be there."""

_log = logging.getLogger(__name__)


class FileFacts(NamedTuple):
    """What the index says of a file."""

    bytes: int
    sha256: str


@final
@dataclass(frozen=True)
class Mirror:
    """A folder of this machine, and the address that it mirrors."""

    storage: ObjectStorage
    folder: Path
    damaged: set[str] = field(default_factory=set[str])
    """Files that were pulled and are not what the index says; they are pushed again once they are here."""

    @classmethod
    def of(cls, address: str) -> Mirror:
        """The mirror of an address, in the cache; its name is the address's last."""
        storage = ObjectStorage.at(address)
        digest = hashlib.sha256(storage.address.encode()).hexdigest()[:16]
        name = storage.address.rpartition("/")[2] or "study"
        return cls(storage, cache_folder() / "mirrors" / digest / name)

    @contextmanager
    def held(self) -> Generator[None]:
        """The mirror is this process's alone, once it is no other's. Locks die with us."""
        with self._lock_file("lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _log.warning("%s: another run of this machine is at work on it; waiting for its end", self.storage)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def held_to_read(self) -> Generator[bool]:
        """Whether it may be brought up to date: not while a run works in it. Readers do that one after the other."""
        with self._lock_file("lock") as file, self._lock_file("readers") as turn:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            fcntl.flock(turn, fcntl.LOCK_EX)
            yield True

    def _lock_file(self, name: str) -> BinaryIO:
        """Beside the mirror, which may be emptied."""
        with telling_refusals(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            return (self.folder.parent / name).open("ab")

    @property
    def num_rounds(self) -> int:
        """Rounds of what is made of all models: in the second, what another driver pushed during the first is seen."""
        return 2

    def study(self) -> Study:
        """The study as it stands there."""
        return study_at(self.folder, place=self.storage)

    def pull(self, *labels: str) -> None:
        """Bring here what is there and not here, each file by its checksum; of scores, those of `labels` or all.

        StoreError without a study there.
        """
        study = read_study(self.storage)
        if study is None:
            raise StoreError(f"{self.storage}: no {STUDY_FILE}; expected the results folder of a study")
        runs = read_runs(self.storage, [model.label for model in study.models])
        self._clear_another_study(runs)
        self._copy([STUDY_FILE, *map(run_name, runs)])
        for label in labels or runs:
            self._pull_scores(runs[label])
        index = self._read_index()
        self._pull_files(index)
        self._copy([MANIFEST_FILE])
        here = {name: facts for name in (*index, MANIFEST_FILE) if (facts := _facts(self.folder / name)) is not None}
        write_atomically(self.folder.parent / _PULLED_FILE, _dump_index(here))

    def push(self) -> None:
        """Put there what was made here and what is not there; the manifest last, and only if study.toml is the one it
        speaks of. One that was pulled, and that is still here, is left to whoever wrote it.
        """
        index, pulled = self._read_index(), self._read_pulled()
        here = {name: facts for name in self._names() if (facts := _facts(self.folder / name)) is not None}
        changed = [name for name, facts in here.items() if self._is_ours(name, facts, index, pulled)]
        manifest = _facts(self.folder / MANIFEST_FILE)
        is_own = manifest is None or manifest != pulled.get(MANIFEST_FILE)
        if is_own and any(name.partition("/")[0] in _CLAIMED for name in changed):
            self.storage.remove(MANIFEST_FILE)
        for is_record in (False, True):
            names = [name for name in changed if name.endswith(".json") == is_record]
            _at_once(lambda name: self.storage.upload(name, self.folder / name), names)
        self._write_index({name: here[name] for name in changed})
        self.damaged.difference_update(changed)
        if is_own:
            self._push_manifest()

    def _is_ours(
        self, name: str, facts: FileFacts, index: Mapping[str, FileFacts], pulled: Mapping[str, FileFacts]
    ) -> bool:
        """Whether a file that is here is to be put there, over what the index says of it."""
        if index.get(name) == facts:
            return name in self.damaged
        return name not in index or pulled.get(name) != facts

    def find_faults(self) -> dict[str, str]:
        """What is wrong at the address with files that its index lists, by name; reads them all."""
        index = self._read_index()
        found = {name: _fault(digest, index[name]) for name, digest in self.storage.hashes(list(index))}
        return {name: fault for name, fault in found.items() if fault is not None}

    def _clear_another_study(self, runs: Mapping[str, Run]) -> None:
        """Empty a mirror whose runs are not those at the address."""
        for path in self.folder.glob("scores/*/run.json"):
            label = path.parent.name
            with suppress(StoreError):
                run = read_run(self.folder, label)
                if run is not None and label in runs and run.fingerprint == runs[label].fingerprint:
                    continue
            with telling_refusals(self.folder):
                shutil.rmtree(self.folder)
                self.folder.mkdir()
            return

    def _copy(self, names: Sequence[str]) -> None:
        """Small files as they are there; those that are not there go here, too."""
        contents = self.storage.read_many(names)
        for name in names:
            path = self.folder / name
            if name not in contents:
                with telling_refusals(path):
                    path.unlink(missing_ok=True)
            elif not path.is_file() or path.read_bytes() != contents[name]:
                write_atomically(path, contents[name])

    def _pull_scores(self, run: Run) -> None:
        """The committed shards that are not here; those that were set aside there are no longer committed here."""
        records, here = read_records(self.storage, run), read_records(self.folder, run)
        for shard, record in list(here.items()):
            if _facts(self.folder / table_name(run, shard)) != FileFacts(record.bytes, record.sha256):
                del here[shard]  # rotten here: the address's copy takes its place
        for shard in run.shards:
            if shard in here and here[shard] != records.get(shard):
                with telling_refusals(self.folder):
                    (self.folder / record_name(run, shard)).unlink(missing_ok=True)
        wanted = [record for shard, record in records.items() if here.get(shard) != record]
        _at_once(lambda record: self._pull_shard(run, record), wanted)

    def _pull_shard(self, run: Run, record: ShardRecord) -> None:
        name = table_name(run, record.shard)
        content = self.storage.read_many([name]).get(name)
        if content is None or hashlib.sha256(content).hexdigest() != record.sha256:
            _log.warning("%s: damaged; it is not taken: run the study again", self.storage.where(name))
            return
        write_atomically(self.folder / name, content)
        write_atomically(self.folder / record_name(run, record.shard), (json.dumps(asdict(record)) + "\n").encode())

    def _pull_files(self, index: Mapping[str, FileFacts]) -> None:
        sizes = self.storage.sizes(list(index))
        self.damaged.update(name for name, facts in index.items() if sizes.get(name) != facts.bytes)
        wanted = [name for name, facts in index.items() if _facts(self.folder / name) != facts]
        _at_once(lambda name: self._fetch(name, index[name]), wanted)

    def _fetch(self, name: str, facts: FileFacts) -> None:
        """A file that is what the index says; another is not taken."""
        with suppress(_NotTakenError), replacing(self.folder / name) as file:
            path = Path(file.name)
            if not self.storage.download(name, path) or hash_file(path) != facts.sha256:
                self.damaged.add(name)
                _log.warning("%s: not what the index says; it is made again", self.storage.where(name))
                raise _NotTakenError

    def _names(self) -> list[str]:
        """The files here that the index is to list."""
        names = [path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file()]
        kept = [name for name in names if name.parts[0] not in _OWN and not name.name.endswith(TEMPORARY_SUFFIX)]
        return sorted(name.as_posix() for name in kept)

    def _read_index(self) -> dict[str, FileFacts]:
        """By name; nothing where the file is not there or not what a push wrote."""
        found = _parse_index(self.storage.read_many([INDEX_FILE]).get(INDEX_FILE, b""))
        return {name: facts for name, facts in found.items() if _is_below(name)}

    def _read_pulled(self) -> dict[str, FileFacts]:
        """What the last pull left here of the index's files, and the manifest."""
        with suppress(OSError):
            return _parse_index((self.folder.parent / _PULLED_FILE).read_bytes())
        return {}

    def _write_index(self, facts: Mapping[str, FileFacts]) -> None:
        """Enter files into the index, and again until they stand in it: another push may be writing it, too."""
        for _ in range(_MOST_PASSES):
            index = self._read_index()
            if all(index.get(name) == each for name, each in facts.items()):
                return
            self.storage.write(INDEX_FILE, _dump_index({**index, **facts}))

    def _push_manifest(self) -> None:
        """What was registered there meanwhile is not what the manifest says to be complete."""
        path = self.folder / MANIFEST_FILE
        if not path.is_file():
            return
        content, study = path.read_bytes(), (self.folder / STUDY_FILE).read_bytes()
        there = self.storage.read_many([MANIFEST_FILE, STUDY_FILE])
        if there.get(STUDY_FILE) != study:
            return
        if there.get(MANIFEST_FILE) != content:
            self.storage.write(MANIFEST_FILE, content)
        if self.storage.read_many([STUDY_FILE]).get(STUDY_FILE) != study:
            self.storage.remove(MANIFEST_FILE)


@final
@dataclass(frozen=True)
class InPlace:
    """A study's own folder, which needs no mirror."""

    folder: Path

    @property
    def storage(self) -> LocalStorage:
        """The folder."""
        return LocalStorage(self.folder)

    @property
    def num_rounds(self) -> int:
        """What another process makes is there at once."""
        return 1

    def study(self) -> Study:
        """The study in the folder."""
        return study_at(self.folder)

    def find_faults(self) -> dict[str, str]:
        """There are no copies that could differ."""
        return {}

    def held(self) -> AbstractContextManager[None]:
        """A folder may be worked on by several."""
        return nullcontext()

    def pull(self, *labels: str) -> None:
        """Everything is here."""

    def push(self) -> None:
        """Everything is there."""


def workplace(place: Path | str) -> Mirror | InPlace:
    """Where the study of a folder or address is worked on, on this machine."""
    storage = storage_of(place)
    return InPlace(storage.folder) if isinstance(storage, LocalStorage) else Mirror.of(str(place))


class _NotTakenError(Exception):
    """A file that was fetched is not the one that was expected."""


def open_mirrored(address: str) -> Study:
    """The study at an address, its mirror brought up to date first, unless a run of this machine works in it."""
    mirror = Mirror.of(address)
    with mirror.held_to_read() as is_ours:
        if is_ours:
            mirror.pull()
        else:
            _log.warning("%s: a run of this machine is at work on it; what it has brought here is shown", address)
    return study_at(mirror.folder, place=mirror.storage)


def publish(study: Study) -> None:
    """Push what was made in the mirror of an address; a study in a folder is where it belongs."""
    if study.address is not None:
        mirror = Mirror.of(study.address)
        with mirror.held():
            mirror.push()


def _parse_index(content: bytes) -> dict[str, FileFacts]:
    """Nothing where it is not what `_dump_index` makes."""
    try:
        listed: dict[str, Any] = json.loads(content)["files"]
        return {name: FileFacts(int(each["bytes"]), str(each["sha256"])) for name, each in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _dump_index(facts: Mapping[str, FileFacts]) -> bytes:
    files = {name: each._asdict() for name, each in sorted(facts.items())}
    return (json.dumps({"files": files}, indent=1) + "\n").encode()


def _facts(path: Path) -> FileFacts | None:
    """None without a file."""
    try:
        stat = path.stat()
        return FileFacts(stat.st_size, _hash(path, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    except OSError:
        return None


@lru_cache(maxsize=1 << 16)  # files are replaced here, never written into; and a run pulls and pushes several times
def _hash(path: Path, size: int, modified: int, inode: int) -> str:
    return hash_file(path)


def _fault(digest: str | OSError, facts: FileFacts) -> str | None:
    if isinstance(digest, OSError):
        return digest.strerror or str(digest)
    return None if digest == facts.sha256 else "its checksum is not the one it was written with"


def _is_below(name: str) -> bool:
    """Whether a name from an index, which anybody may have written, stays in the folder and off its other files."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and path.parts[0] not in _OWN


def _at_once(deed: Callable[[Any], None], each: Iterable[Any]) -> None:
    """Do something for each, several at a time; the first error is raised."""
    with ThreadPoolExecutor(_NUM_AT_ONCE) as pool:
        for _ in pool.map(deed, each):
            pass
