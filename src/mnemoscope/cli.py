"""The command line: thin verbs over the Python API. Everything heavy is imported inside the verb that needs it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Group, Parameter

from mnemoscope.audit_verb import audit
from mnemoscope.canaries_verb import canaries
from mnemoscope.config import CorpusConfig, CorpusFormat, Device, Dtype, Layout, Mode, ModelConfig, StudyConfig
from mnemoscope.engine_options import HERE, EngineOptions
from mnemoscope.errors import ConfigError
from mnemoscope.plan_verb import plan
from mnemoscope.report_verbs import report
from mnemoscope.status_verb import status
from mnemoscope.table_verbs import export, import_scores, show
from mnemoscope.version import __version__
from mnemoscope.view_verb import view

if TYPE_CHECKING:
    from rich.console import Console

app = App(
    name="mnemoscope",
    version=__version__,
    help="Which sequences can a language model recite, how firmly, and why.",
    help_epilogue="Start with `mnemoscope demo`: no download, no GPU, a few minutes.",
    suppress_keyboard_interrupt=False,  # what Ctrl-C means is said in __main__
)
_CORPUS = Group("Corpus")
_MODEL = Group("Model")
_GRID = Group("Grid")

Lengths = Annotated[str, Parameter(group=_GRID)]


@app.command
def demo(
    *,
    out: str | Path = "mnemoscope-demo",
    seed: int = 0,
    fresh: Annotated[bool, Parameter(negative="")] = False,
    where: EngineOptions = HERE,
) -> None:
    """Train a ladder of small models on text that is on this machine, and run the whole study on them.

    Parameters
    ----------
    out
        Folder of the study, on this machine; a finished one is shown again.
    seed
        Seed of the texts' choice, the order of training and the initial weights.
    fresh
        Score and trace anew, even where the cache has the tables of the same code, models and texts.
    where
        The engine.
    """
    from dataclasses import replace

    from rich.console import Console

    from mnemoscope.demo import Recipe, demo_study, prepare, training_display
    from mnemoscope.demo_audit import audit_demo, describe_audit
    from mnemoscope.kept_tables import keep_tables, restore_tables
    from mnemoscope.progress import show_progress
    from mnemoscope.storage import local_folder

    folder = local_folder("--out", out)
    with training_display(Console(stderr=True)) as progress:
        assets = prepare(recipe=replace(Recipe(), seed=seed), progress=progress)
    config = demo_study(assets)
    if not fresh and restore_tables(assets, config, folder):
        sys.stderr.write("scores and traces of this code, study and machine are taken from the cache (--fresh: anew)\n")
    _run(config, folder, where)
    keep_tables(assets, config, folder)
    with show_progress(sys.stderr) as progress:
        audited = audit_demo(assets, folder / "audit", progress=progress)
    console = _console()
    for what, words in (("audit", folder / "audit" / "report.html"), ("", describe_audit(audited))):
        console.print(f"{what:9} {words}", highlight=False, markup=False, soft_wrap=True)


@app.command
def study(
    file: Path,
    *,
    out: str | Path | None = None,
    part: str | None = None,
    audit: Annotated[bool, Parameter(negative="")] = False,
    where: EngineOptions = HERE,
) -> None:
    """Score several models or checkpoints over one corpus and its control, as a study file says.

    Parameters
    ----------
    file
        The study: a TOML file with [[models]], [corpus], [control], contexts and continuations.
    out
        Folder of the results, or address such as s3://bucket/study (default: the file's name without .toml).
    part
        NUMBER/OF, such as 2/8: score these shards only, while the same command with other numbers scores the others,
        anywhere and at any time, into the same folder or address; the last one finishes the study.
    audit
        Score sequences whose margins are near-ties in bfloat16 or float16 again in float32, as `audit = true` does.
    where
        The engine.
    """
    from mnemoscope.study_file import load_study, resolve_paths

    config = resolve_paths(load_study(file), file.absolute().parent)
    config = _with_audit(config) if audit else config
    _run(config, out or file.with_suffix(""), where, part)


@app.command
def score(
    *,
    model: Annotated[str, Parameter(group=_MODEL)],
    corpus: Annotated[list[str], Parameter(group=_CORPUS, consume_multiple=True, negative="")],
    out: str | Path = "mnemoscope-results",
    control: Annotated[list[str] | None, Parameter(group=_CORPUS, consume_multiple=True, negative="")] = None,
    contexts: Lengths = "32,48,64,96",
    continuations: Lengths = "16,32,48,64",
    mode: Annotated[Mode, Parameter(group=_GRID)] = "graded",
    revision: Annotated[str | None, Parameter(group=_MODEL)] = None,
    name: Annotated[str | None, Parameter(group=_MODEL)] = None,
    dtype: Annotated[Dtype, Parameter(group=_MODEL)] = "float32",
    audit: Annotated[bool, Parameter(group=_MODEL, negative="")] = False,
    device: Annotated[Device, Parameter(group=_MODEL)] = "auto",
    attention: Annotated[Literal["sdpa", "eager", "flash_attention_2"] | None, Parameter(group=_MODEL)] = None,
    remote_code: Annotated[bool, Parameter(group=_MODEL, negative="")] = False,
    format: Annotated[CorpusFormat, Parameter(group=_CORPUS)] = "auto",
    tokenizer: Annotated[str | None, Parameter(group=_CORPUS)] = None,
    layout: Annotated[Layout, Parameter(group=_CORPUS)] = "documents",
    row_tokens: Annotated[int, Parameter(group=_CORPUS)] = 2049,
    token_dtype: Annotated[Literal["uint16", "int32", "uint32", "int64"], Parameter(group=_CORPUS)] = "uint16",
    column: Annotated[str | None, Parameter(group=_CORPUS)] = None,
    bos: Annotated[bool, Parameter(group=_CORPUS, negative="")] = False,
    offset: Annotated[str, Parameter(group=_CORPUS)] = "0",
    short_rows: Annotated[Literal["error", "skip"], Parameter(group=_CORPUS)] = "error",
    sequences: Annotated[str | None, Parameter(group=_CORPUS)] = None,
    sample: Annotated[int | None, Parameter(group=_CORPUS)] = None,
    seed: Annotated[int, Parameter(group=_CORPUS)] = 0,
    batch_size: str = "auto",
    shard_rows: int = 4096,
    part: str | None = None,
    where: EngineOptions = HERE,
) -> None:
    """Score one model over one corpus; the same command again finishes what was interrupted.

    Parameters
    ----------
    model
        A folder with config.json and *.safetensors, or a hub name such as EleutherAI/pythia-70m-deduped.
    corpus
        The training text: files, globs or fsspec addresses; .bin (with or without .idx), .npy, .parquet, .arrow,
        .jsonl, .txt, each also as .gz or .zst.
    out
        Folder of the results, or address such as s3://bucket/study; further models can be scored into the same one.
    control
        Text of the same kind that the model never saw; read like the corpus. The excess over it is memorization.
    contexts
        Context lengths k in tokens, separated by commas.
    continuations
        Continuation lengths n in tokens, separated by commas; every k x n is scored.
    mode
        graded: every match bit. exact: full match, first mismatch and probabilities only, in one forward pass.
    revision
        Hub branch, tag or commit (step143000), or the subfolder of a local model.
    name
        The model's name in folders and tables.
    dtype
        Number format of the model; float32 is the reference.
    audit
        Of another format: score sequences whose margins are near-ties in it again in float32.
    device
        Where the model runs; auto takes cuda, then mps, then cpu.
    attention
        Attention implementation of transformers.
    remote_code
        Run code that comes with the model's repository.
    format
        How the corpus is stored, where its file name does not say.
    tokenizer
        tokenizer.json, a folder with one, or a hub name; text needs one (default: the model's own).
    layout
        For text: one sequence per document, or documents packed into rows of --row-tokens.
    row_tokens
        Row length of a headerless .bin, of a flat .npy, or of packed text, in tokens.
    token_dtype
        Integer type of a headerless .bin.
    column
        Field of a Parquet, Arrow or JSONL file that holds text or tokens.
    bos
        Put the beginning-of-sequence token before each document.
    offset
        Where a sequence's window starts in its row, in tokens, or `random`.
    short_rows
        Rows shorter than the largest k + n: refuse the corpus, or skip and count them.
    sequences
        Parquet or CSV file with a column sequence_id: score these rows of the corpus only.
    sample
        Score this many rows, drawn at random.
    seed
        Seed of --sample and of random offsets.
    batch_size
        Sequences per forward pass, or `auto`: by free memory.
    shard_rows
        Sequences per shard of the store: the most that a kill can lose.
    part
        NUMBER/OF, such as 2/8: score these shards only; the last of the parts finishes the study.
    where
        The engine.
    """
    reading = CorpusConfig(
        path=tuple(corpus),
        format=format,
        tokenizer=tokenizer,
        layout=layout,
        row_tokens=row_tokens,
        token_dtype=token_dtype,
        column=column,
        bos=bos,
        offset="random" if offset == "random" else _whole_number("--offset", offset),
        short_rows=short_rows,
        sequences=sequences,
        sample=sample,
        seed=seed,
    )
    _run(
        StudyConfig(
            models=(
                ModelConfig(
                    source=model,
                    revision=revision,
                    name=name,
                    dtype=dtype,
                    audit=audit,
                    device=device,
                    attention=attention,
                    remote_code=remote_code,
                ),
            ),
            corpus=reading,
            control=_like(reading, control) if control else None,
            contexts=_lengths("--contexts", contexts),
            continuations=_lengths("--continuations", continuations),
            mode=mode,
            batch_size="auto" if batch_size == "auto" else _whole_number("--batch-size", batch_size),
            shard_rows=shard_rows,
        ),
        out,
        where,
        part,
    )


@app.command
def predict(
    folder: str | Path,
    *,
    model: str | None = None,
    corpus: Annotated[list[str] | None, Parameter(group=_CORPUS, consume_multiple=True, negative="")] = None,
    sample: Annotated[int | None, Parameter(group=_CORPUS)] = None,
    seed: Annotated[int, Parameter(group=_CORPUS)] = 0,
    context: Annotated[int | None, Parameter(group=_GRID)] = None,
    continuation: Annotated[int | None, Parameter(group=_GRID)] = None,
    top: int = 20,
    out: Path | None = None,
) -> None:
    """Rank sequences by the risk that a model recites them, from their contexts alone: nothing is decoded.

    Parameters
    ----------
    folder
        Folder or address of a study with a [prediction] section: its predictors are used.
    model
        Name of the model in the study (default: the largest that is predicted).
    corpus
        Other files than the study's corpus, read the same way.
    sample
        Rank this many rows, drawn at random (default: all of --corpus, or the study's own sequences).
    seed
        Seed of --sample.
    context
        Context length k in tokens (default: the first that was traced).
    continuation
        Continuation length n in tokens (default: the longest that predictors were fit to).
    top
        How many are printed.
    out
        File of the whole ranking, .parquet or .csv (default: predictions/MODEL-ranking.parquet where the study lies).
    """
    from dataclasses import replace

    from mnemoscope.mirror import publish
    from mnemoscope.progress import show_progress
    from mnemoscope.ranker import rank_corpus
    from mnemoscope.ranking import save_ranking
    from mnemoscope.report.layout import print_table
    from mnemoscope.report.ranking_table import ranking_table
    from mnemoscope.store import open_study

    opened = open_study(folder)
    reading = opened.config.corpus
    if corpus:
        reading = replace(reading, path=tuple(corpus), sequences=None, sample=None)
    if sample is not None:
        reading = replace(reading, sequences=None, sample=sample, seed=seed)
    with show_progress(sys.stderr) as progress:
        ranking = rank_corpus(
            opened, reading, label=model, context=context, continuation=continuation, progress=progress
        )
    name = f"predictions/{ranking.label}-ranking.parquet"
    save_ranking(ranking, out or opened.folder / name)
    if out is None:
        publish(opened)
    console = _console()
    print_table(ranking_table(ranking, top=top), console)
    console.print(f"\nranking   {out or opened.where(name)}", highlight=False, markup=False, soft_wrap=True)


for _verb in (status, plan, audit, canaries, report, show, view, export, import_scores):
    app.command(_verb)


def _run(config: StudyConfig, folder: str | Path, where: EngineOptions, part: str | None = None) -> None:
    """Score what is missing, analyse, draw, and print the tables and where everything lies."""
    from mnemoscope.conclusion import conclude
    from mnemoscope.progress import show_progress
    from mnemoscope.run import run_study
    from mnemoscope.shards import Part
    from mnemoscope.status import read_status

    own = None if part is None else Part.parse(part)
    engine = where.open()
    with show_progress(sys.stderr) as progress:
        finished = run_study(config, folder, engine=engine, progress=progress, part=own, command=shlex.join(sys.argv))
    if own is not None and not (status := read_status(folder)).is_complete:
        words = f"part {part} is scored; {status.num_outstanding:,} shards of other parts are not"
        _console().print(f"{words}: the last one finishes the study", highlight=False, soft_wrap=True)
        return
    conclude(finished)


def _console() -> Console:
    from rich.console import Console

    return Console()


def _with_audit(config: StudyConfig) -> StudyConfig:
    """The study with an audit of every model that is not in float32 and has none; ConfigError where all are."""
    from dataclasses import replace

    if all(model.dtype == "float32" for model in config.models):
        raise ConfigError("--audit: given, and every model has dtype float32; expected bfloat16 or float16 to audit")
    models = [
        model if model.dtype == "float32" else replace(model, audit=model.audit or True) for model in config.models
    ]
    return replace(config, models=tuple(models))


def _like(reading: CorpusConfig, paths: list[str]) -> CorpusConfig:
    """The control: other files, read the same way, all of their rows."""
    from dataclasses import replace

    return replace(reading, path=tuple(paths), sequences=None, sample=None)


def _lengths(option: str, text: str) -> tuple[int, ...]:
    return tuple(_whole_number(option, part) for part in text.replace(" ", ",").split(",") if part)


def _whole_number(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{option}: {text!r} given; expected whole numbers") from None
