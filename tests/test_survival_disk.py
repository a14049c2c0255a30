"""Disks that refuse: full, over a quota, or read-only all of a sudden, at each of a study's files in turn."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from faults import (
    PAGE_BYTES,
    Disk,
    assert_undisturbed,
    at_sync,
    complete,
    hash_all,
    limited_files,
    make_survivor,
    small_disk,
    temporary_files,
)
from mnemoscope.config import StudyConfig
from mnemoscope.errors import StoreError
from mnemoscope.manifest import read_manifest
from mnemoscope.run import run_study


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> StudyConfig:
    return make_survivor(tmp_path_factory.mktemp("in"))


@pytest.fixture(scope="module")
def expected(config, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("expected") / "study"
    complete(config, folder)
    return hash_all(folder)


@pytest.fixture(params=["full", "quota"])
def disk(request, tmp_path) -> Generator[Disk]:
    """A disk of 16 MiB of its own, or a limit to the size of files."""
    try:
        with small_disk(tmp_path) if request.param == "full" else limited_files(tmp_path) as disk:
            yield disk
    except PermissionError as error:
        pytest.skip(str(error))


def refused(deed: Callable[[], object], words: str) -> str:
    """The name of the file that could not be written, as the one line of an error says."""
    with pytest.raises(StoreError, match=rf"^\S+: cannot be written \({words}") as told:
        deed()
    assert "\n" not in str(told.value)
    return re.sub(r"\d{12}", "N", Path(str(told.value).partition(":")[0]).name)


FULL = r"(No space left on device|File too large)\); free space and run again; what is stored stays and is taken up$"


def test_a_disk_is_full_at_every_file(config, expected, disk):
    """Full after every file, or one block into the next: told in one line, nothing half-written stays, the next run
    takes up what is there, and in the end nothing shows.
    """
    run_or_refused = lambda: refused(lambda: run_study(config, disk.folder), FULL)  # noqa: E731  (said three times)
    files = []
    while read_manifest(disk.folder) is None:
        # A shard with its commit are four syncs: full at the first its commit fails, at the third the next shard.
        for number, num_left in ((1, 0), (3, 0), (3, PAGE_BYTES)):
            with at_sync(number, lambda num_left=num_left: disk.fill(num_left)):
                try:
                    files.append(run_or_refused())
                except pytest.fail.Exception:
                    disk.mend()
                    assert read_manifest(disk.folder) is not None
                    break
            disk.mend()
            assert temporary_files(disk.folder) == []
    assert {"run.json", "member-N.parquet", "member-N.json", "control-N.parquet", "control-N.json"} <= set(files)
    assert {"k4.json", "counts.json", "manifest.json"} <= set(files)
    assert_undisturbed(disk.folder, expected, concluded=False)


def test_a_disk_is_full_among_findings(config, expected, disk):
    """From the first table of the findings on, or at the page alone: the page that was there stays, and so do facts."""
    complete(config, disk.folder)
    page = (disk.folder / "report.html").read_bytes()
    num_syncs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", num_syncs.append)
        complete(config, disk.folder)
    files = []
    for number in (1, len(num_syncs) - 3):
        with at_sync(number, lambda: disk.fill(0)):
            files.append(refused(lambda: complete(config, disk.folder), FULL))
        disk.mend()
        assert (disk.folder / "report.html").read_bytes() == page and temporary_files(disk.folder) == []
    assert files[0].endswith((".parquet", ".json")) and files[1] == "report.html"
    complete(config, disk.folder)
    assert_undisturbed(disk.folder, expected)


class Writable:
    """A folder that can be turned read-only and back: remounted by root, who may write whatever its mode is."""

    def __init__(self, folder: Path, *, is_mounted: bool) -> None:
        self.folder = folder / "study"
        self._place, self._is_mounted = folder, is_mounted

    def turn(self, mode: str) -> None:
        """`ro` or `rw`."""
        if self._is_mounted:
            subprocess.run(["mount", "-o", f"remount,{mode}", str(self._place)], check=True)
            return
        for path in [*self._place.rglob("*"), self._place]:
            if path.is_dir():
                path.chmod(stat.S_IRUSR | stat.S_IXUSR | (stat.S_IWUSR if mode == "rw" else 0))


@pytest.fixture
def writable(tmp_path) -> Generator[Writable]:
    if os.geteuid():
        yield Writable(tmp_path, is_mounted=False)
        return
    try:
        with small_disk(tmp_path):
            yield Writable(tmp_path, is_mounted=True)
    except PermissionError as error:
        pytest.skip(f"root may write anywhere, and may not mount here: {error}")


def test_a_folder_turns_read_only(config, expected, writable):
    """While it is scored, traced, and before the page: told in one line, taken up once it can be written again."""
    read_only = r"(Read-only file system|Permission denied)\); choose a results folder that can be written$"

    def turn_at(name: str) -> Callable[[str, int, int], None]:
        def progress(label: str, num_done: int, num_sequences: int) -> None:
            if label == name and num_done:
                writable.turn("ro")

        return progress

    for name in ("tiny", "counts, rows of the corpus"):
        named = refused(lambda name=name: run_study(config, writable.folder, progress=turn_at(name)), read_only)
        assert named == ("member-N.parquet" if name == "tiny" else "counts.json")
        writable.turn("rw")
    run_study(config, writable.folder)
    writable.turn("ro")
    before = hash_all(writable.folder)
    assert refused(lambda: complete(config, writable.folder), read_only) != ""
    assert hash_all(writable.folder) == before
    writable.turn("rw")
    complete(config, writable.folder)
    assert_undisturbed(writable.folder, expected)
