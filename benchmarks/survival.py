"""Faults of random kinds at random instants, one after the other on one study: what is injected, and what survives.

Every round takes a folder (new, or the one that the last round left finished or unfinished), does something to it or to
the process that works on it, and then finishes the study as its user would: by the same command again. It has survived
where every table, record, finding and the manifest has the bytes of a run that nothing happened to, the coverage audit
is complete and no temporary file is left. Three rounds in ten are not finished: the next fault meets what they left,
and the one after the last finishes them. The kinds:

    death        SIGKILL of the driver just before a random sync of its files
    worker       SIGKILL of one of two processes that work for a driver, at a random word of progress
    both         SIGKILL of that driver at a random instant; its workers end by themselves
    two          two drivers at once, of which none, one or both die
    full         a disk that is full, or almost, from a random sync on; as root a real one, else a limit to files' size
    harm         a bit flipped, bytes cut off or all lost, in one to five random files of facts
    clock        a driver whose clock is hours wrong, over files dated years wrong, and dies just before a random sync

The last line is one JSON object: rounds, seed, and by kind the faults injected and survived. A round that does not
survive is printed with its kind and number, and its folder is kept; exit status 1.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # where the study and the faults are made that tests use, too

from faults import (  # noqa: E402
    PAGE_BYTES,
    STORED,
    Disk,
    assert_undisturbed,
    at_sync,
    complete,
    complete_or_die,
    date_files,
    forkserver,
    harm_file,
    hash_all,
    limited_files,
    make_two,
    skew_clocks,
    small_disk,
)
from mnemoscope.config import StudyConfig  # noqa: E402
from mnemoscope.engines.local import LocalEngine  # noqa: E402
from mnemoscope.errors import StoreError  # noqa: E402

NUM_SYNCS: Final = 170
"""Of a study from nothing to its page; more than there are is a round without its fault."""
SPAWN_SECONDS: Final = 12.0
"""For two processes to start and to finish the study."""


@dataclass(frozen=True)
class Round:
    """What a fault is done to, and with what luck."""

    config: StudyConfig
    folder: Path
    instants: random.Random

    def start(self, target: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
        """A process of its own at work on the folder."""
        child = forkserver().Process(target=target, args=(self.config, self.folder, *arguments))
        child.start()
        return child


def die_at_sync(this: Round) -> int:
    child = this.start(complete_or_die, this.instants.randrange(1, NUM_SYNCS))
    child.join()
    return int(child.exitcode != 0)


def run_in_two(config: StudyConfig, folder: Path) -> None:
    complete(config, folder, engine=LocalEngine(2))


def kill_worker(this: Round) -> int:
    left, num_killed = this.instants.randrange(1, 12), 0

    def kill_one(label: str, num_done: int, num_sequences: int) -> None:
        nonlocal left, num_killed
        left -= 1
        children = [child for child in multiprocessing.active_children() if "Spawn" in type(child).__name__]
        if left <= 0 and not num_killed and children:
            this.instants.choice(children).kill()
            num_killed = 1

    complete(this.config, this.folder, engine=LocalEngine(2), progress=kill_one)
    return num_killed


def kill_both(this: Round) -> int:
    child = this.start(run_in_two)
    child.join(this.instants.uniform(0, SPAWN_SECONDS))
    child.kill()
    child.join()
    return int(child.exitcode != 0)


def run_two(this: Round) -> int:
    syncs = [this.instants.randrange(1, 2 * NUM_SYNCS) for _ in range(2)]
    children = [this.start(complete_or_die, number) for number in syncs]
    for child in children:
        child.join()
    return 1


def disk_for(folder: Path) -> AbstractContextManager[Disk]:
    return small_disk(folder) if os.geteuid() == 0 else limited_files(folder)


def fill_disk(this: Round, disk: Disk) -> int:
    """The disk outlives the round, and the study on it."""
    num_left = this.instants.choice((0, PAGE_BYTES, 4 * PAGE_BYTES))
    try:
        with at_sync(this.instants.randrange(1, NUM_SYNCS), lambda: disk.fill(num_left)):
            complete(this.config, disk.folder)
    except StoreError:
        return 1
    finally:
        disk.mend()
    return 0


def harm_files(this: Round) -> int:
    paths = [path for kind in STORED for path in sorted(this.folder.glob(f"{kind}/**/*.*")) if path.is_file()]
    paths = [path for path in paths if path.name != "run.json" and "damaged" not in path.name and path.stat().st_size]
    harmed = this.instants.sample(paths, min(len(paths), this.instants.randrange(1, 6)))
    for path in harmed:
        harm_file(path, this.instants)
    return len(harmed)


def run_at(config: StudyConfig, folder: Path, number: int, seconds: float) -> None:
    skew_clocks(seconds)
    complete_or_die(config, folder, number)


def skew(this: Round) -> int:
    hours = 3600 * this.instants.uniform(-48, 48)
    if this.folder.exists():
        date_files(this.folder, this.instants.uniform(-1e9, 1e9))
    child = this.start(run_at, this.instants.randrange(1, NUM_SYNCS), hours)
    child.join()
    return 1


KINDS: Final[dict[str, tuple[int, Callable[[Round], int]]]] = {
    "death": (6, die_at_sync),
    "worker": (1, kill_worker),
    "both": (1, kill_both),
    "two": (3, run_two),
    "harm": (6, harm_files),
    "clock": (3, skew),
}
"""How often each comes, and what it does; `full` is apart, for it has a disk of its own."""
FULL_SHARE: Final = 0.2


def survive(this: Round, expected: dict[str, str], kind: str, disk: Disk) -> int:
    """The faults injected; AssertionError or what the study raised where it does not survive them."""
    deed = None if kind == "full" else KINDS[kind][1]
    num_faults = fill_disk(this, disk) if deed is None else deed(this)
    folder = disk.folder if kind == "full" else this.folder
    if this.instants.random() < 0.7:
        finish(this.config, folder, expected)
    return num_faults


def finish(config: StudyConfig, folder: Path, expected: dict[str, str]) -> None:
    complete(config, folder)
    assert_undisturbed(folder, expected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long, whatever is left")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # another number adds floats up in another order
    place = Path(tempfile.mkdtemp(prefix="survival-"))
    config, until = make_two(place / "in"), time.monotonic() + 60 * asked.minutes
    complete(config, place / "expected")
    expected = hash_all(place / "expected")
    injected, survived, failed, num_rounds = Counter[str](), Counter[str](), 0, 0
    (place / "disk").mkdir()
    with disk_for(place / "disk") as disk:
        for number in range(asked.rounds):
            if time.monotonic() > until:
                break
            instants = random.Random(f"{asked.seed} {number}")
            kinds = instants.choices(list(KINDS), [weight for weight, _ in KINDS.values()])
            kind = "full" if instants.random() < FULL_SHARE else kinds[0]
            folder = disk.folder if kind == "full" else place / "study"
            if instants.random() < 0.5 or kind in ("worker", "both"):  # a finished study has no work for workers
                shutil.rmtree(folder, ignore_errors=True)
            num_rounds += 1
            try:
                num_faults = survive(Round(config, folder, instants), expected, kind, disk)
            except Exception:
                failed += 1
                injected[kind] += 1
                kept = shutil.copytree(folder, place / f"failed-{number}", dirs_exist_ok=True)
                shutil.rmtree(folder, ignore_errors=True)
                sys.stderr.write(f"round {number}, {kind}: did not survive; {kept}\n{traceback.format_exc()}\n")
                continue
            injected[kind] += num_faults
            survived[kind] += num_faults
            if sys.stderr.isatty():
                sys.stderr.write(f"\rround {number + 1} of {asked.rounds}: {injected.total()} faults")
        for folder in (place / "study", disk.folder):
            finish(config, folder, expected)
    if not failed:
        shutil.rmtree(place, ignore_errors=True)
    by_kind = {kind: {"injected": injected[kind], "survived": survived[kind]} for kind in sorted(injected)}
    totals = {"rounds": num_rounds, "injected": injected.total(), "survived": survived.total()}
    sys.stdout.write(json.dumps({"seed": asked.seed, **totals, "failed_rounds": failed, "kinds": by_kind}) + "\n")
    sys.exit(int(failed > 0))


if __name__ == "__main__":
    main()
