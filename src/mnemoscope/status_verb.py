"""The verb `status`: how far a study is, and whether its files are what was written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.console import Console


def status(folder: str | Path, *, verify: Annotated[bool, Parameter(negative="")] = False) -> None:
    """How far a study is; with --verify also whether its tables are undamaged and complete.

    Parameters
    ----------
    folder
        Folder or address of the study.
    verify
        Read every table: checksums, and each selected sequence in the scores exactly once. Exit status 1 if not.
    """
    from rich.console import Console

    from mnemoscope.report.tables import print_table, status_table
    from mnemoscope.status import read_status

    console = Console()
    report = read_status(folder)
    print_table(status_table(report), console)
    if verify and not _verify(folder, console):
        sys.exit(1)


def _verify(folder: str | Path, console: Console) -> bool:
    """Whether every file is undamaged and every selected sequence there once; says what is not."""
    from mnemoscope.coverage import audit_coverage, find_derived_faults
    from mnemoscope.mirror import workplace
    from mnemoscope.store import find_damage, open_study

    opened, work = open_study(folder), workplace(folder)
    sound = len(opened.runs) == len(opened.config.models)
    for label, run in opened.runs.items():
        damaged = find_damage(work.storage, run)
        for damage in damaged:
            words = f"{label}: shard {damage.shard.name} is damaged: {damage.reason}"
            console.print(words, markup=False, soft_wrap=True)
        if damaged:
            sound = False
            continue
        coverage = audit_coverage(opened, label)
        sound = sound and coverage.is_complete
        console.print(
            f"{label}: {coverage.num_expected:,} rows expected, {coverage.num_missing:,} missing, "
            f"{coverage.num_doubled:,} doubled, {coverage.num_alien:,} alien; "
            f"{coverage.num_short:,} sequences too short",
            markup=False,
            soft_wrap=True,
        )
    faults = find_derived_faults(opened) | work.find_faults()
    for name, fault in faults.items():
        console.print(f"{name}: {fault or 'undamaged'}", markup=False, soft_wrap=True)
    return sound and not any(faults.values())
