"""The verb `plan`: what a study costs on this machine, measured for a minute."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn, TextIO

from cyclopts import Parameter

from mnemoscope.errors import ConfigError
from mnemoscope.storage import local_folder

if TYPE_CHECKING:
    from mnemoscope.study_plan import Plan, Wishes

_SECONDS_BETWEEN_LINES: Final = 10.0


def plan(
    file: Path,
    *,
    seconds: float = 60.0,
    devices: Annotated[list[int] | None, Parameter(consume_multiple=True, negative="")] = None,
    within: float = 0.1,
    level: float = 0.95,
    hours: float = 24.0,
    out: str | Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """What a study takes - hours, disk, memory, sequences - measured with its own models and rows; nothing is written.

    Parameters
    ----------
    file
        The study: a TOML file as `study` takes it.
    seconds
        How long to measure, all models together.
    devices
        Numbers of devices to give hours for; the proposal is for the first (default: 1 2 8).
    within
        Half the width of the interval that shares of full matches are to have, in percentage points.
    level
        Its confidence level.
    hours
        Hours that the study may take; decides what is proposed.
    out
        Folder of this machine that the results would go to, whose disk must have room (default: the file's name
        without .toml).
    as_json
        One JSON object instead of tables.
    """
    _check("--seconds", seconds, 0, 86_400)
    _check("--within", within, 0, 50)
    _check("--level", level, 0, 1)
    _check("--hours", hours, 0, 1e9)
    if min(devices or [1]) < 1:
        raise ConfigError(f"--devices: {min(devices or [1])} given; expected 1 or more")
    try:
        from mnemoscope.study_plan import Wishes

        wishes = Wishes(devices=tuple(devices or (1, 2, 8)), within=within / 100, level=level, hours=hours)
        made = _measure(file, wishes, seconds=seconds, out=local_folder("--out", out or file.with_suffix("")))
    except KeyboardInterrupt:
        sys.stderr.write("mnemoscope: interrupted; nothing was written\n")
        sys.exit(130)
    (_print_json if as_json else _print_tables)(made)
    if made.refusals:
        _refuse(made.refusals)


def _measure(file: Path, wishes: Wishes, *, seconds: float, out: Path) -> Plan:
    """The plan; where something cannot fit that is known beforehand, every reason is told and the program ends."""
    from functools import partial

    from mnemoscope.engines import Once
    from mnemoscope.pilot import find_misfits, measure_study
    from mnemoscope.planning import study_size
    from mnemoscope.proposal import make_plan
    from mnemoscope.study_file import load_study, resolve_paths
    from mnemoscope.texts import open_texts

    config = resolve_paths(load_study(file), file.absolute().parent)
    _ = config.scoring_mode
    texts = Once(partial(open_texts, config))
    if misfits := find_misfits(config, texts):
        _refuse(misfits)
    with _show_measuring(sys.stderr) as tell:
        pilot = measure_study(config, texts, seconds=seconds, tell=tell)
    size = study_size(config, selected=pilot.selected, available=pilot.available)
    return make_plan(pilot.models, size, wishes, free_disk=_free_disk(out))


def _print_json(made: Plan) -> None:
    from mnemoscope.report.plan_table import plan_json

    print(json.dumps(plan_json(made), indent=1, allow_nan=False))


def _print_tables(made: Plan) -> None:
    from rich.console import Console

    from mnemoscope.report import plan_table
    from mnemoscope.report.layout import console_width, print_table

    console = Console()

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    width = console_width(console)
    for tables in (plan_table.measured_tables, plan_table.hours_tables, plan_table.sizes_tables):
        for table in tables(made, width=width):
            print_table(table, console)
            say("")
    for line in plan_table.room_words(made):
        say(line)
    say("")
    for sentence in plan_table.proposal_words(made):
        say(sentence)
    for lines in plan_table.toml_comments(made):
        say("")
        say(lines)


def _refuse(reasons: Sequence[str]) -> NoReturn:
    for reason in reasons:
        sys.stderr.write(f"mnemoscope: {' '.join(reason.split())}\n")
    sys.exit(2)


def _free_disk(folder: Path) -> int:
    """Bytes free where a folder is or would be."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _check(option: str, value: float, low: float, high: float) -> None:
    if not low < value <= high or (option == "--level" and value == high):
        raise ConfigError(f"{option}: {value:g} given; expected more than {low:g} and less than {high:g}")


@contextmanager
def _show_measuring(stream: TextIO) -> Generator[Callable[[str, float], None]]:
    """Something to tell what is being measured and how far it is: a bar in a terminal, plain lines otherwise."""
    if not stream.isatty():
        begun, told = time.monotonic(), -_SECONDS_BETWEEN_LINES

        def write(words: str, share: float) -> None:
            nonlocal told
            seconds = time.monotonic() - begun
            if seconds >= told + _SECONDS_BETWEEN_LINES or share >= 1:
                told = seconds
                stream.write(f"{seconds:3.0f} s  {words}\n")
                stream.flush()

        yield write
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=stream), transient=True) as bars:
        task = bars.add_task("", total=1.0)
        yield lambda words, share: bars.update(task, description=words, completed=share)
