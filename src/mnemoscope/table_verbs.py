"""The verbs for single sequences and for tables that come and go: show, export, import-scores; `cli` has the others."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from mnemoscope.errors import ConfigError


def show(
    folder: str | Path,
    sequence: int,
    *,
    model: str | None = None,
    context: int | None = None,
    group: Literal["member", "control"] = "member",
    redact: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """One sequence: context, truth and generation token under token, and its scores under every model.

    Parameters
    ----------
    folder
        Folder or address of the study.
    sequence
        Its sequence_id: the row of the corpus.
    model
        Whose generation is shown (default: the largest model's, at its last step).
    context
        After how many tokens (default: the first that was traced, else the shortest).
    group
        Whether it is a row of the corpus or of the control.
    redact
        Hide what looks like e-mail addresses, telephone numbers, keys, card and account numbers, and all tokens after
        50 in a row.
    """
    from dataclasses import replace

    from rich.console import Console

    from mnemoscope.flips import read_flips
    from mnemoscope.report.flip_table import flip_words
    from mnemoscope.report.sequence_text import print_sequence
    from mnemoscope.sequences import read_sequence
    from mnemoscope.store import open_study

    study = open_study(folder)
    view = read_sequence(study, sequence, group=group, label=model, context=context, redact=redact)
    if (flips := read_flips(study, study.run(view.model))) is not None:
        view = replace(view, notes=(*view.notes, flip_words(flips)))
    print_sequence(view, Console())


def export(folder: str | Path, *, out: Path | None = None, format: Literal["csv", "parquet"] = "csv") -> None:
    """The tables of every analysis, and each model's scores sequence by sequence, as files.

    Parameters
    ----------
    folder
        Folder or address of the study.
    out
        Folder that the files go to (default: `export` where the study lies); those that are there are replaced.
    format
        Of all files. As csv, scores are idx,score in memorization_evals_MODEL_K_K+N_STEP.csv.
    """
    from rich.console import Console

    from mnemoscope.exported import export_study
    from mnemoscope.mirror import publish
    from mnemoscope.progress import show_progress
    from mnemoscope.store import open_study

    opened = open_study(folder)
    with show_progress(sys.stderr) as progress:
        written = export_study(opened, out or opened.folder / "export", format=format, progress=progress)
    if out is None:
        publish(opened)
    target = out or opened.where("export")
    console = Console()
    scores = f"{len(written.scores)} files" if written.scores else "none: mode 'exact' has no scores below 1"
    for line in (f"tables    {len(written.tables)} files", f"scores    {scores}", f"all in    {target}"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def import_scores(
    files: Annotated[list[str], Parameter(negative="")],
    *,
    out: str | Path,
    control: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    parameters: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    join: Literal["same", "inner"] = "same",
) -> None:
    """Scores that were computed elsewhere as a study of their own: factors and transitions of idx,score files.

    Parameters
    ----------
    files
        memorization_evals_MODEL_K_K+N_STEP.csv, each also as .gz or .zst: files, globs or fsspec addresses.
    out
        Folder of the study, on this machine; further models over the same sequences can be imported into the same one.
    control
        The same of text that the models never saw.
    parameters
        MODEL=COUNT: parameters outside the embeddings of a model that is not one of the Pythia suite.
    join
        Files over other sequences: `same` refuses them, `inner` takes the sequences that all files have.
    """
    from mnemoscope import imported
    from mnemoscope.conclusion import conclude
    from mnemoscope.progress import show_progress
    from mnemoscope.storage import local_folder

    sizes = dict(_size(text) for text in parameters or ())
    with show_progress(sys.stderr) as progress:
        finished = imported.import_scores(
            files,
            local_folder("--out", out),
            control=control or (),
            parameters=sizes,
            join=join,
            progress=progress,
            command=shlex.join(sys.argv),
        )
    conclude(finished)


def _size(text: str) -> tuple[str, int]:
    model, _, count = text.rpartition("=")
    if not model or not count.strip().isdecimal():
        raise ConfigError(f"--parameters: {text!r} given; expected MODEL=COUNT")
    return model, int(count)
