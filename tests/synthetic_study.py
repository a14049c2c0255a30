"""Complete studies of any size that no model made: real files through the real store, facts drawn to look like facts.

A token is hit with a probability that grows along the window; most sequences are hit now and then, some are recited,
the more the larger the model and the more the copies. Everything stored of a sequence follows from those hits: first
mismatches of all contexts agree with one another, with the match bits and with the log-probabilities. A few rows are
copies of their neighbours, and have their scores.

Axes: S sequences, W window tokens, C contexts, N continuations, n index in the continuation.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from byte_tokens import save_tokenizer
from mnemoscope.config import CorpusConfig, CountsConfig, Grid, ModelConfig, StudyConfig, TracesConfig
from mnemoscope.facts import MatchFacts
from mnemoscope.identity import ModelIdentity, RunIdentity
from mnemoscope.manifest import write_manifest
from mnemoscope.shards import SCORES_FORMAT, SequenceRows, ShardRange, hash_windows, scores_schema, scores_table
from mnemoscope.store import Run, Study, begin_run, commit_shard, open_study, register_models, study_lock
from mnemoscope.texts import open_texts
from mnemoscope.version import __version__

VOCAB_SIZE: Final = 1024
REPEATS: Final = (1, 2, 4, 8, 16, 32, 64)
_SIZES: Final = (1_000_000, 8_000_000, 64_000_000, 512_000_000)
"""Parameters outside the embeddings."""
_CHUNK_ROWS: Final = 1 << 16
_DUPLICATES: Final = 0.01


def write_study(
    folder: Path,
    *,
    num_sequences: int,
    num_models: int = 2,
    contexts: Sequence[int] = (16, 32),
    continuations: Sequence[int] = (8, 16),
    seed: int = 0,
    num_control: int | None = None,
    shard_rows: int = 4096,
    with_repeats: bool = True,
    hostile: Sequence[bytes] = (),
    traced_per_stratum: int = 0,
) -> Study:
    """A complete study of `num_sequences` members and a fifth as many of a control (or `num_control`), in `folder`.

    Corpora, their tokenizer and the list of repeats lie in `folder`/input. The last token ids are the `hostile`
    texts. With `traced_per_stratum` the smallest context is traced (see `synthetic_traces`), and counts are taken.
    """
    shutil.rmtree(folder, ignore_errors=True)
    num_control = num_sequences // 5 if num_control is None else num_control
    grid = Grid(contexts=tuple(contexts), continuations=tuple(continuations))
    tokenizer = save_tokenizer(folder / "input" / "tokenizer.json", vocab_size=VOCAB_SIZE, hostile=hostile)
    sizes = {"member": num_sequences, "control": num_control}
    for group, count in sizes.items():
        if count:
            shape = (count, grid.window_tokens)
            _write_corpus(folder / "input" / f"{group}.npy", shape, _chunk_rows(shard_rows), seed=[seed, len(group)])
    listed = _write_repeats(folder / "input" / "sequences.parquet", num_sequences, seed) if with_repeats else None
    config = StudyConfig(
        models=tuple(_model_config(size) for size in _SIZES[:num_models]),
        corpus=_corpus_config(folder, "member", tokenizer, None if listed is None else str(listed)),
        control=_corpus_config(folder, "control", tokenizer, None) if num_control else None,
        contexts=grid.contexts,
        continuations=grid.continuations,
        batch_size=64,
        shard_rows=shard_rows,
        traces=TracesConfig(per_stratum=traced_per_stratum) if traced_per_stratum else None,
        counts=CountsConfig() if traced_per_stratum else None,
    )
    with patch("os.fsync"):  # a third of the time, and nothing here has to outlive a power cut
        _write_runs(folder, config, seed)
    if traced_per_stratum:
        from synthetic_traces import write_synthetic_traces

        write_synthetic_traces(open_study(folder), seed=seed)
    study = open_study(folder)
    write_manifest(study, command="synthetic", duration_seconds=1.0)
    return study


def _model_config(size: int) -> ModelConfig:
    return ModelConfig(source=f"/synthetic/made-{size // 1_000_000}m", device="cpu")


def _corpus_config(folder: Path, group: str, tokenizer: Path, sequences: str | None) -> CorpusConfig:
    path = folder.absolute() / "input" / f"{group}.npy"
    return CorpusConfig(path=str(path), tokenizer=str(tokenizer.absolute()), sequences=sequences)


def _chunk_rows(shard_rows: int) -> int:
    """Sequences drawn at once: whole shards. No copy lies in another chunk than its original."""
    return shard_rows * max(1, _CHUNK_ROWS // shard_rows)


def _write_corpus(path: Path, shape: tuple[int, int], chunk_rows: int, *, seed: list[int]) -> None:
    """Rows of tokens, uint16, frequent ones small; a row in a hundred is a copy of the one before."""
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=shape)
    for part in _parts(shape[0], chunk_rows):
        drawn = np.random.default_rng([*seed, part.start]).random((part.stop - part.start, shape[1]), np.float32)
        tokens_SW = np.minimum(VOCAB_SIZE * drawn**2, VOCAB_SIZE - 1).astype(np.uint16)
        rows[part] = tokens_SW[_originals(len(tokens_SW), [*seed, part.start])]
    rows.flush()


def _originals(count: int, seed: list[int]) -> NDArray[np.int64]:
    """For each row of a chunk the row that it is a copy of: nearly always itself; int64 [S]."""
    is_own = np.random.default_rng([*seed, 1]).random(count) >= _DUPLICATES
    is_own[:1] = True
    return np.maximum.accumulate(np.where(is_own, np.arange(count), 0))


def _write_repeats(path: Path, num_sequences: int, seed: int) -> Path:
    """Every sequence with its number of copies; half of them have one, and twice as many copies are half as common."""
    drawn = np.random.default_rng([seed, 2]).geometric(0.5, num_sequences) - 1
    repeats = np.array(REPEATS, np.int32)[np.minimum(drawn, len(REPEATS) - 1)]
    pq.write_table(pa.table({"sequence_id": np.arange(num_sequences), "num_repeats": repeats}), path)
    return path.absolute()


def _write_runs(folder: Path, config: StudyConfig, seed: int) -> None:
    texts = open_texts(config)
    groups = {group: text.identity for group, text in texts.items()}
    runs = [_describe_run(model, size, config, groups) for model, size in zip(config.models, _SIZES, strict=False)]
    with study_lock(folder):
        register_models(folder, config, replacing=[run.label for run in runs], before_change=lambda: None)
        for run in runs:
            begin_run(folder, run)
    for group, text in texts.items():
        rows_SW = np.load(config.groups[group].paths[0], mmap_mode="r")
        for part in _parts(len(rows_SW), _chunk_rows(config.shard_rows)):
            tokens_SW = np.asarray(rows_SW[part])
            repeats = text.selection.num_repeats
            rows = SequenceRows(
                sequence_ids=np.arange(part.start, part.stop),
                offsets=np.zeros(len(tokens_SW), np.int64),
                num_repeats=None if repeats is None else repeats[part],
                window_hashes=hash_windows(tokens_SW),
            )
            for run, facts in zip(runs, draw_facts(rows, group, runs, seed=[seed, part.start]), strict=True):
                _commit(folder, run, group, rows, facts)


def _describe_run(model: ModelConfig, size: int, config: StudyConfig, groups: dict) -> Run:
    digest = hashlib.sha256(model.label.encode()).hexdigest()
    weights = ModelIdentity(
        architecture="GPTNeoXForCausalLM",
        num_parameters=size + 2 * VOCAB_SIZE * 64,
        num_non_embedding_parameters=size,
        vocab_size=VOCAB_SIZE,
        max_positions=2048,
        weights_sha256=digest,
        config_sha256=digest[::-1],
        commit=None,
        dtype="float32",
        device="cpu",
        attention="sdpa",
    )
    identity = RunIdentity(
        model=weights,
        groups=groups,
        contexts=config.contexts,
        continuations=config.continuations,
        mode=config.mode,
        batch_size=64,
        shard_rows=config.shard_rows,
        versions={"mnemoscope": __version__, "scores": str(SCORES_FORMAT), "torch": "0", "transformers": "0"},
    )
    return Run(
        label=model.label,
        source=model.source,
        revision=None,
        training_step=None,
        identity=identity,
        fingerprint=identity.fingerprint,
    )


def _commit(folder: Path, run: Run, group: str, rows: SequenceRows, facts: MatchFacts) -> None:
    """The chunk's shards."""
    grid = run.identity.grid
    schema = scores_schema(grid, mode="graded", label=run.label, fingerprint=run.fingerprint)
    first = int(rows.sequence_ids[0])
    for part in _parts(len(rows.sequence_ids), run.identity.shard_rows):
        own_rows = SequenceRows(*(None if column is None else column[part] for column in rows))
        own_facts = MatchFacts(*(None if array is None else array[part] for array in facts))
        shard = ShardRange(group, first + part.start, first + part.stop)
        table = scores_table(group, own_rows, own_facts, schema=schema, grid=grid)
        commit_shard(folder, run, shard, table, num_short=0)


class _Sequences(NamedTuple):
    """What all models share of the sequences of a chunk."""

    firmness_S: NDArray[np.float64]
    threshold_S: NDArray[np.float64]
    ease_S: NDArray[np.float32]


def draw_facts(rows: SequenceRows, group: str, runs: Sequence[Run], *, seed: list[int]) -> Iterator[MatchFacts]:
    """The facts of a chunk of sequences, model by model; firm sequences are firm under each."""
    count, seed = len(rows.sequence_ids), [*seed, len(group)]
    generator = np.random.default_rng(seed)
    copies_S = np.ones(count) if rows.num_repeats is None else rows.num_repeats
    shared = _Sequences(
        firmness_S=generator.normal(0, 1, count) + (0.55 * np.log2(copies_S) if group == "member" else -6),
        threshold_S=generator.random(count),
        ease_S=(0.1 + 0.5 * generator.beta(1.5, 3, count)).astype(np.float32),
    )
    _, originals_S, own_S = np.unique(rows.window_hashes, return_index=True, return_inverse=True)
    copied_S = originals_S[own_S]
    for number, run in enumerate(runs):
        drawn = _draw_model(shared, run, np.random.default_rng([*seed, number]))
        yield MatchFacts(*(array[copied_S] for array in drawn))


def _draw_model(shared: _Sequences, run: Run, generator: np.random.Generator) -> MatchFacts:
    grid, size = run.identity.grid, run.identity.model.num_non_embedding_parameters
    pull_S = 0.9 * shared.firmness_S + 0.8 * np.log10(size / _SIZES[0]) - 3.2
    is_recited_S = shared.threshold_S < 1 / (1 + np.exp(-pull_S))
    firm_W = 0.999 - 0.35 * np.exp(-np.arange(grid.window_tokens, dtype=np.float32) / 6)
    hit_rate_SW = np.where(is_recited_S[:, None], firm_W, shared.ease_S[:, None])
    drawn_SW = generator.random(hit_rate_SW.shape, np.float32)
    hits_SW = drawn_SW < hit_rate_SW
    # The smaller the draw against the rate, the surer the model; a miss costs at least the half that it lacks.
    log_probability_SW = np.where(hits_SW, -0.7 * (drawn_SW / hit_rate_SW) ** 4, -0.7 - 6 * drawn_SW).astype(np.float32)
    margin_SW = (0.001 + 5 * np.abs(drawn_SW - hit_rate_SW)).astype(np.float32)
    recovery_SW = generator.random(hits_SW.shape, np.float32) < 0.15 + 0.3 * is_recited_S[:, None]
    return _score(grid, hits_SW, recovery_SW, log_probability_SW, margin_SW)


def _score(
    grid: Grid,
    hits_SW: NDArray[np.bool_],
    recovery_SW: NDArray[np.bool_],
    log_probability_SW: NDArray[np.float32],
    margin_SW: NDArray[np.float32],
) -> MatchFacts:
    """Facts of every context: hits up to the first miss, `recovery` after it."""
    n_max, cells = grid.max_continuation, [n - 1 for n in grid.continuations]
    matched, firsts, margins, logs = [], [], [], []
    for context in grid.contexts:
        part = slice(context, context + n_max)
        is_missed_Sn = np.logical_or.accumulate(~hits_SW[:, part], axis=1)
        firsts.append(n_max - is_missed_Sn.sum(axis=1, dtype=np.int32))
        is_first_Sn = np.arange(n_max) == firsts[-1][:, None]
        matched.append(~is_missed_Sn | (recovery_SW[:, part] & ~is_first_Sn))
        margins.append(np.minimum.accumulate(margin_SW[:, part], axis=1)[:, cells])
        logs.append(np.cumsum(log_probability_SW[:, part], axis=1)[:, cells])
    return MatchFacts(
        matched_RCn=np.stack(matched, axis=1),
        first_mismatch_RC=np.stack(firsts, axis=1),
        smallest_margin_RCN=np.stack(margins, axis=1),
        log_probability_RCN=np.stack(logs, axis=1),
    )


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
