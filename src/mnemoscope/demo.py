"""The embedded study: real text that comes with Python, and a ladder of models trained on it.

Nothing is downloaded. Documents are rows of one length, no two of which share a run of `distinct_run_tokens`
tokens. Each member stands in the training stream a known number of times; held-out rows, from other files,
never do.
Axes: S rows of the stream, R documents, T tokens of a row.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mnemoscope.cache import building, cache_folder, is_whole
from mnemoscope.config import (
    CorpusConfig,
    CountsConfig,
    ModelConfig,
    PredictionConfig,
    StudyConfig,
    TracesConfig,
)
from mnemoscope.errors import CorpusError
from mnemoscope.ladder import Rung, Schedule, TrainingProgress, revision_name, train_ladder
from mnemoscope.library import Source, digest, gather_sources

RECIPE_VERSION = 1
"""Raised when this module or the training loop changes what comes out, so that old caches are left alone."""
END_OF_TEXT = "<|endoftext|>"

_LADDER = (
    Rung(name="demo-0.1M", hidden_size=64, num_layers=2, num_heads=4, learning_rate=4e-3),
    Rung(name="demo-0.4M", hidden_size=128, num_layers=2, num_heads=4, learning_rate=3e-3),
    Rung(name="demo-1.2M", hidden_size=160, num_layers=4, num_heads=5, learning_rate=3e-3),
    Rung(name="demo-3M", hidden_size=256, num_layers=4, num_heads=8, learning_rate=2e-3),
)
_SCHEDULE = Schedule(batch_rows=4)
_DOCUMENTS_BY_REPEATS = ((1, 128), (2, 96), (4, 96), (8, 96), (16, 56), (32, 26), (64, 12))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides the embedded corpus and its models."""

    rungs: tuple[Rung, ...] = _LADDER
    """The models, ascending in size."""
    schedule: Schedule = _SCHEDULE
    """How they walk the stream."""
    documents_by_repeats: tuple[tuple[int, int], ...] = _DOCUMENTS_BY_REPEATS
    """(repeats, documents repeated so often), ascending."""
    num_heldout: int = 240
    """Documents that no model sees."""
    row_tokens: int = 80
    """Length of a document."""
    vocabulary_size: int = 2048
    """Tokens of the byte-level BPE trained on the spot."""
    distinct_run_tokens: int = 16
    """No two documents share a run of so many tokens."""
    rows_per_source: int = 4
    """Documents taken from one file or help topic, so that none is the corpus; more only where they lack."""
    distinct_token_share: float = 0.35
    """Rows with a smaller share of different tokens are tables and rulers, predictable unseen: left out."""
    rungs_over_time: tuple[str, ...] = ("demo-0.4M",)
    """The models of which the study scores every revision; of the others it scores the last."""
    contexts: tuple[int, ...] = (8, 16, 32)
    """The study's contexts, in tokens."""
    continuations: tuple[int, ...] = (8, 16, 32)
    """The study's continuations, in tokens."""
    traced_contexts: tuple[int, ...] = (32,)
    """Those of the contexts at which sequences are traced token by token."""
    traced_continuation: int = 16
    """That of the continuations whose matched tokens make the strata of the traced sample."""
    traced_path_tokens: int = 32
    """Tokens of the continuation that are traced."""
    predicted_rungs: tuple[str, ...] = ("demo-0.1M", "demo-3M")
    """The models whose recitation is predicted."""
    predictors: tuple[str, ...] = (
        *("transformer", "original", "majority", "index-rate", "logistic"),
        *("boosting", "boosting-full", "smaller", "earlier"),
    )
    """What is trained to predict it; more would take more minutes."""
    seed: int = 0
    """Decides the order of the stream, which documents are repeated, and the first weights."""

    @property
    def num_members(self) -> int:
        """Different documents in the stream."""
        return sum(documents for _, documents in self.documents_by_repeats)

    @property
    def num_rows(self) -> int:
        """Rows of the stream, repeats counted."""
        return sum(repeats * documents for repeats, documents in self.documents_by_repeats)


class DemoCorpus(NamedTuple):
    """The rows that the models train on, and those they never see."""

    stream_ST: NDArray[np.uint16]
    """uint16 [S, T]: the training stream, in training order."""
    first_rows_R: NDArray[np.int64]
    """int64 [R]: row of the stream where each member stands first, ascending."""
    num_repeats_R: NDArray[np.int32]
    """int32 [R]: how often that member stands in the stream."""
    heldout_RT: NDArray[np.uint16]
    """uint16 [R', T]: the documents no model sees."""


@dataclass(frozen=True, kw_only=True)
class DemoAssets:
    """Where the embedded study's corpus and models lie."""

    recipe: Recipe
    """What they were made from."""
    stream: Path
    """.npy, uint16 [rows, row_tokens]: the training stream in training order."""
    sequences: Path
    """.parquet: `sequence_id`, the first row of each member in the stream, and its `num_repeats`."""
    heldout: Path
    """.npy, uint16 [rows, row_tokens]: the control."""
    tokenizer: Path
    """tokenizer.json; each model has a copy."""
    models: tuple[Path, ...]
    """The models' folders, in the ladder's order."""
    revisions: tuple[str, ...]
    """The subfolders of each, in training order."""


def train_tokenizer(texts: Sequence[str], *, vocabulary_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of `texts`, end-of-text as token 0; any text comes back from its tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def build_corpus(sources: Sequence[Source], tokenizer: Tokenizer, recipe: Recipe) -> DemoCorpus:
    """Member and held-out documents cut from `sources`, and the stream that repeats the members.

    A source serves one side only. Raises CorpusError where the texts do not suffice.
    """
    members_RT, heldout_RT = _cut_documents(sources, tokenizer, recipe)
    generator = np.random.default_rng(recipe.seed)
    repeats, documents = np.array(recipe.documents_by_repeats, np.int32).T
    num_repeats_R = generator.permutation(np.repeat(repeats, documents))
    order_S = generator.permutation(np.repeat(np.arange(len(members_RT)), num_repeats_R))
    member_ids, first_rows_R = np.unique(order_S, return_index=True)
    by_row = np.argsort(first_rows_R)
    return DemoCorpus(
        members_RT[order_S],
        first_rows_R[by_row].astype(np.int64),
        num_repeats_R[member_ids[by_row]],
        heldout_RT,
    )


def _cut_documents(
    sources: Sequence[Source], tokenizer: Tokenizer, recipe: Recipe
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Members and held-out rows, uint16 [R, T] each; no run of `distinct_run_tokens` stands there twice."""
    rows_by_source = [_tile(tokenizer.encode(source.text).ids, recipe.row_tokens) for source in sources]
    wanted = (recipe.num_members, recipe.num_heldout)
    found = (0, 0)
    for factor in (1, 4, 16, 64):  # a Python without its library's sources has but the help topics
        taken: tuple[list[NDArray[np.uint16]], list[NDArray[np.uint16]]] = ([], [])
        seen: set[bytes] = set()
        for source, tiled_RT in zip(sources, rows_by_source, strict=True):
            side = int(digest(source.name)[1] * sum(wanted) >= 256 * wanted[0])
            limit = min(factor * recipe.rows_per_source, wanted[side] - len(taken[side]))
            taken[side].extend(_distinct_rows(tiled_RT, seen, recipe, limit=limit))
        found = (len(taken[0]), len(taken[1]))
        if found == wanted:
            return np.stack(taken[0]), np.stack(taken[1])
    raise CorpusError(
        f"Python's library gives {found[0]} documents and {found[1]} held-out ones of {recipe.row_tokens} "
        f"tokens; expected {wanted[0]} and {wanted[1]} (install Python with its library's sources)"
    )


def _tile(tokens: Sequence[int], row_tokens: int) -> NDArray[np.uint16]:
    """uint16 [R, T]: the rows of a text, side by side; what is left at its end is no row."""
    num_rows = len(tokens) // row_tokens
    return np.array(tokens[: num_rows * row_tokens], np.uint16).reshape(num_rows, row_tokens)


def _distinct_rows(
    rows_RT: NDArray[np.uint16], seen: set[bytes], recipe: Recipe, *, limit: int
) -> list[NDArray[np.uint16]]:
    """The first `limit` rows that repeat no run, their own or one of `seen`; theirs join `seen`."""
    rows: list[NDArray[np.uint16]] = []
    for row_T in rows_RT:
        if len(rows) == limit:
            break
        windows = np.lib.stride_tricks.sliding_window_view(row_T, recipe.distinct_run_tokens)
        runs = {window.tobytes() for window in windows}
        varied = len(np.unique(row_T)) >= recipe.distinct_token_share * recipe.row_tokens
        if not varied or len(runs) < len(windows) or runs & seen:
            continue
        seen |= runs
        rows.append(row_T)
    return rows


def prepare(
    cache: Path | None = None,
    *,
    recipe: Recipe | None = None,
    sources: Sequence[Source] | None = None,
    num_processes: int | None = None,
    progress: Callable[[TrainingProgress], None] = lambda progress: None,
) -> DemoAssets:
    """The embedded corpus and its trained models: what `cache` holds whole, and the rest made there.

    The text is that of `sources`, by default the interpreter's own.
    The default cache is $MNEMOSCOPE_CACHE or ~/.cache/mnemoscope. `progress` hears of training steps, of
    none when all is there. Killed at any instant, a second call makes what is missing. Raises CorpusError,
    ModelError and StoreError.
    """
    recipe = recipe or Recipe()
    sources = gather_sources() if sources is None else sources
    home = (cache or cache_folder()) / "demo" / _key(recipe, sources)
    if not is_whole(home / "corpus"):
        with building(home / "corpus") as folder:
            _write_corpus(folder, sources, recipe)
    assets = _assets(home, recipe)
    missing = [rung for rung in recipe.rungs if not is_whole(home / "models" / rung.name)]
    if missing:
        train_ladder(
            missing,
            assets.stream,
            folder=home / "models",
            tokenizer_files=(assets.tokenizer, assets.tokenizer.with_name("tokenizer_config.json")),
            vocabulary_size=Tokenizer.from_file(str(assets.tokenizer)).get_vocab_size(),
            schedule=recipe.schedule,
            seed=recipe.seed,
            num_processes=num_processes,
            report=progress,
        )
    return assets


def demo_study(assets: DemoAssets) -> StudyConfig:
    """The study over members and control: the last revision of each model, and the earlier ones of some."""
    recipe = assets.recipe
    last = assets.revisions[-1]
    finals = [ModelConfig(source=str(model), revision=last, name=model.name) for model in assets.models]
    earlier = [
        ModelConfig(source=str(model), revision=revision, name=f"{model.name}@{revision}")
        for model in assets.models
        if model.name in recipe.rungs_over_time
        for revision in assets.revisions[:-1]
    ]
    return StudyConfig(
        models=(*finals, *earlier),
        corpus=CorpusConfig(path=str(assets.stream), sequences=str(assets.sequences), row_tokens=recipe.row_tokens),
        control=CorpusConfig(path=str(assets.heldout), row_tokens=recipe.row_tokens),
        contexts=recipe.contexts,
        continuations=recipe.continuations,
        traces=TracesConfig(
            contexts=recipe.traced_contexts,
            continuation=recipe.traced_continuation,
            path_tokens=recipe.traced_path_tokens,
        ),
        counts=CountsConfig(),
        prediction=PredictionConfig(models=recipe.predicted_rungs, predictors=recipe.predictors, num_seeds=1),
    )


@contextmanager
def training_display(console: Console) -> Generator[Callable[[TrainingProgress], None], None, None]:
    """What to give `prepare` as `progress`: bars in a terminal, else a line at each quarter of a model."""
    if not console.is_terminal:
        yield lambda progress: _print_quarter(console, progress)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.2f}"),
        TimeRemainingColumn(),
    )
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as display:

        def show(progress: TrainingProgress) -> None:
            if progress.name not in bars:
                bars[progress.name] = display.add_task(
                    progress.name, total=progress.total_steps, loss=progress.loss_nats
                )
            display.update(bars[progress.name], completed=progress.step, loss=progress.loss_nats)

        yield show


def _print_quarter(console: Console, progress: TrainingProgress) -> None:
    """A line when a quarter of the model's steps was passed since its last report."""
    quarter = 4 * progress.step // progress.total_steps
    if quarter > 4 * (progress.step - progress.steps_since_report) // progress.total_steps:
        console.print(
            f"training {progress.name}: step {progress.step} of {progress.total_steps}, loss {progress.loss_nats:.2f}",
            highlight=False,
        )


def _write_corpus(folder: Path, sources: Sequence[Source], recipe: Recipe) -> None:
    tokenizer = train_tokenizer([source.text for source in sources], vocabulary_size=recipe.vocabulary_size)
    corpus = build_corpus(sources, tokenizer, recipe)
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "model_max_length": recipe.row_tokens,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
    np.save(folder / "stream.npy", corpus.stream_ST)
    np.save(folder / "heldout.npy", corpus.heldout_RT)
    table = pa.table({"sequence_id": corpus.first_rows_R, "num_repeats": corpus.num_repeats_R})
    pq.write_table(table, folder / "sequences.parquet", compression="zstd")


def _assets(home: Path, recipe: Recipe) -> DemoAssets:
    return DemoAssets(
        recipe=recipe,
        stream=home / "corpus" / "stream.npy",
        sequences=home / "corpus" / "sequences.parquet",
        heldout=home / "corpus" / "heldout.npy",
        tokenizer=home / "corpus" / "tokenizer.json",
        models=tuple(home / "models" / rung.name for rung in recipe.rungs),
        revisions=tuple(revision_name(step) for step in recipe.schedule.checkpoint_steps(recipe.num_rows)),
    )


_STUDY_FIELDS = (
    *("rungs_over_time", "contexts", "continuations", "predicted_rungs", "predictors"),
    *("traced_contexts", "traced_continuation", "traced_path_tokens"),
)


def _key(recipe: Recipe, sources: Sequence[Source]) -> str:
    """A hash of all that decides the assets' bytes; what only the study uses is left out, as it trains nothing."""
    deciding = {name: value for name, value in asdict(recipe).items() if name not in _STUDY_FIELDS}
    torch_version = ".".join(importlib.metadata.version("torch").split(".")[:2])
    facts = json.dumps([RECIPE_VERSION, deciding, torch_version], sort_keys=True)
    texts = hashlib.sha256()
    for source in sources:
        texts.update(digest(source.name) + digest(source.text))
    return hashlib.sha256(facts.encode() + texts.digest()).hexdigest()[:16]
