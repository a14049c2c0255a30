"""Faults made on purpose, and the study that must survive them.

The study takes a second: a model or two, scored, traced, counted and analysed, and the page. The faults are those of an
operating system: a death, a disk that refuses, a bit that is not what it was, a clock that is wrong.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Final, NamedTuple

from mnemoscope.config import CountsConfig, ModelConfig, StudyConfig, TracesConfig
from mnemoscope.coverage import audit_coverage, find_derived_faults
from mnemoscope.engines import Engine
from mnemoscope.findings import analyze, save_findings
from mnemoscope.manifest import read_manifest
from mnemoscope.progress import Progress
from mnemoscope.reporting import write_report
from mnemoscope.run import run_study
from mnemoscope.shards import Part
from mnemoscope.store import open_study
from studies import make_study, save_model

STORED: Final = ("scores", "traces", "counts", "predictions")
"""Folders of facts, which a run finds whole or makes anew."""
PRELOADED: Final = [
    "mnemoscope.run",
    "mnemoscope.scoring",
    "mnemoscope.tracing",
    "mnemoscope.memory",
    "mnemoscope.findings",
    "mnemoscope.reporting",
    "mnemoscope.report.figures",
    "mnemoscope.report.curve_figures",
    "mnemoscope.report.embedding_figures",
    "mnemoscope.report.transition_figures",
    "transformers.models.auto.modeling_auto",
    "transformers.models.gpt_neox.modeling_gpt_neox",
    "numba.typed",
    "pandas",
]
"""Of the server of the first test that forks from it."""
PAGE_BYTES: Final = 4096


def make_survivor(place: Path) -> StudyConfig:
    """One model over 11 members and 5 of a control in shards of 4: five shards; traced and counted."""
    return make_study(place, num_rows=11, num_control=5, traces=TracesConfig(per_stratum=4), counts=CountsConfig())


def make_two(place: Path) -> StudyConfig:
    """Two models of it."""
    config = make_survivor(place)
    other = ModelConfig(source=str(save_model(place / "other", seed=3)), device="cpu")
    return replace(config, models=(*config.models, other))


def complete(
    config: StudyConfig,
    folder: Path,
    *,
    engine: Engine | None = None,
    progress: Progress | None = None,
    part: Part | None = None,
) -> None:
    """What `mnemoscope study` does, but for the figures: they take four seconds, and are drawn anew in any case."""
    study = run_study(config, folder, engine=engine, progress=progress, part=part)
    if read_manifest(folder) is not None:
        results = analyze(study)
        save_findings(study, results, figures=False)
        write_report(study, results=results)


def hash_all(folder: Path, kinds: Sequence[str] = (*STORED, "analyses")) -> dict[str, str]:
    """By path, the checksum of every table and record, and what the manifest says but for its provenance."""
    paths = sorted(path for kind in kinds for path in (folder / kind).rglob("*") if path.is_file())
    contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if "damaged" not in path.name}
    manifest = {name: value for name, value in (read_manifest(folder) or {}).items() if name != "provenance"}
    contents["manifest.json"] = json.dumps(manifest, sort_keys=True).encode()
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def assert_undisturbed(folder: Path, expected: dict[str, str], *, concluded: bool = True) -> None:
    """The tables of a run that nothing happened to, each row once, a manifest, and nothing left lying about.

    Without findings and page where the study is not `concluded`.
    """
    if not concluded:
        expected = {name: value for name, value in expected.items() if not name.startswith("analyses/")}
    found = hash_all(folder) if concluded else hash_all(folder, STORED)
    assert sorted(found.keys() ^ expected.keys()) == []
    assert [name for name in found if found[name] != expected[name]] == []
    study = open_study(folder)
    assert [label for label in study.runs if not audit_coverage(study, label).is_complete] == []
    assert not any(find_derived_faults(study).values())
    assert (folder / "report.html").is_file() or not concluded
    assert temporary_files(folder) == []


def temporary_files(folder: Path) -> list[str]:
    """What writers have left behind."""
    return sorted(path.name for path in folder.rglob("*") if ".tmp" in path.name)


def forkserver() -> ForkServerContext:
    """Makes children of a process that has imported torch once; each may be killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


@contextmanager
def at_sync(number: int, deed: Callable[[], None]) -> Generator[None]:
    """Does the deed just before this process's sync of that number, files and folders alike, from 1."""
    sync, numbers = os.fsync, itertools.count(1)

    def counting(descriptor: int) -> None:
        if next(numbers) == number:
            deed()
        sync(descriptor)

    os.fsync = counting
    try:
        yield
    finally:
        os.fsync = sync


def die() -> None:
    """Without warning."""
    os.kill(os.getpid(), signal.SIGKILL)


def complete_or_die(config: StudyConfig, folder: Path, number: int) -> None:
    """For a child: what it does ends just before that sync."""
    with at_sync(number, die):
        complete(config, folder)


def run_or_die(config: StudyConfig, folder: Path, number: int) -> None:
    """The same without findings and page."""
    with at_sync(number, die):
        run_study(config, folder)


class Disk(NamedTuple):
    """A place for a study, and what can happen to it; both are undone by `mend`."""

    folder: Path
    fill: Callable[[int], None]
    """Nothing more can be written, but for so many bytes."""
    mend: Callable[[], None]


@contextmanager
def small_disk(folder: Path, *, num_bytes: int = 1 << 24) -> Generator[Disk]:
    """A file system of its own, filled by a ballast beside the study; PermissionError without the right to mount."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "none", str(folder)]
    try:
        subprocess.run(mount, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PermissionError(f"{folder}: mounting a small file system needs root ({error})") from error
    ballast = folder / "ballast"

    def fill(num_left: int) -> None:
        facts = os.statvfs(folder)
        with ballast.open("ab") as file:
            wanted = facts.f_bavail * facts.f_frsize - num_left
            os.posix_fallocate(file.fileno(), 0, file.tell() + wanted)

    try:
        yield Disk(folder / "study", fill, lambda: ballast.unlink(missing_ok=True))
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def limited_files(folder: Path) -> Generator[Disk]:
    """Files that may not grow beyond a size, as with a quota: needs no rights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield Disk(
            folder / "study",
            lambda num_left: resource.setrlimit(resource.RLIMIT_FSIZE, (num_left, hard)),
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)),
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def harm_file(path: Path, instants: random.Random) -> str:
    """One bit flipped, bytes cut off the end, or all of it gone; says which."""
    content = bytearray(path.read_bytes())
    match instants.choice(("flip", "flip", "cut", "loss")):
        case "flip":
            place, bit = instants.randrange(len(content)), instants.randrange(8)
            content[place] ^= 1 << bit
            path.write_bytes(content)
            return f"bit {bit} of byte {place} flipped"
        case "cut":
            num_left = instants.randrange(len(content))
            path.write_bytes(content[:num_left])
            return f"cut to {num_left} of {len(content)} bytes"
        case _:
            path.unlink()
            return "lost"


def skew_clocks(seconds: float) -> None:
    """All that this process is told of the time from now on is wrong by so much, and a little more with every look."""
    looks = itertools.count(1)
    for name in ("time", "monotonic"):
        told = getattr(time, name)
        setattr(time, name, lambda told=told: told() + seconds + next(looks) * seconds / 1e6)


def date_files(folder: Path, seconds: float) -> None:
    """Every file below is as if it had been written so many seconds from now."""
    then = time.time() + seconds
    for path in folder.rglob("*"):
        os.utime(path, (then, then))
