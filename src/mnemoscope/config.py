"""A study file as frozen dataclasses. One TOML is one study; its resolved copy lies beside the results.

Each field's docstring says what it means; a field without a default is required. `study_file` reads and writes them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from pydantic import ConfigDict

from mnemoscope.errors import ConfigError
from mnemoscope.prediction.settings import PREDICTORS

Mode = Literal["exact", "graded"]
StudyMode = Literal["exact", "graded", "two-phase", "imported"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["float32", "bfloat16", "float16"]
CorpusFormat = Literal["auto", "megatron", "document", "npy", "tokens", "text"]
Layout = Literal["documents", "packed"]

FRAGILE_MARGIN: Final = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}
"""Logits, by number format: a path whose smallest top-1 to top-2 margin is below this may differ on another machine or
batch, and is what an audit scores again."""

_STRICT = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The contexts k and continuations n at which every sequence is scored; all pairs are scored."""

    contexts: tuple[int, ...]
    """Context lengths k, in tokens, ascending."""
    continuations: tuple[int, ...]
    """Continuation lengths n, in tokens, ascending."""

    def __post_init__(self) -> None:
        for name, lengths in (("contexts", self.contexts), ("continuations", self.continuations)):
            if not lengths or min(lengths) < 1 or list(lengths) != sorted(set(lengths)):
                raise ConfigError(
                    f"{name}: {list(lengths)} given; expected positive lengths in ascending order, each once"
                )

    @property
    def max_context(self) -> int:
        """The longest context, in tokens."""
        return self.contexts[-1]

    @property
    def max_continuation(self) -> int:
        """The longest continuation, in tokens: n_max."""
        return self.continuations[-1]

    @property
    def window_tokens(self) -> int:
        """Tokens of a sequence that the grid needs: k_max + n_max."""
        return self.max_context + self.max_continuation


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Where sequences come from, and how bytes on disk become sequences."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    path: str | tuple[str, ...]
    """A file, a glob, an fsspec address, or a list of them read as one corpus in the order given."""
    format: CorpusFormat = "auto"
    """`auto` decides by the file's name: .bin with .idx is megatron, .bin alone is document, .npy, .parquet,
    .arrow, .jsonl, .txt."""
    tokenizer: str | None = None
    """tokenizer.json, a folder that holds one, or a hub name; text needs one (default: the first model's)."""
    layout: Layout = "documents"
    """For text: one sequence per document, or all documents packed into rows of `row_tokens`, end-of-text
    between them."""
    row_tokens: int = 2049
    """Length of a row of a headerless .bin, of a flat .npy, or of packed text, in tokens."""
    token_dtype: Literal["uint16", "int32", "uint32", "int64"] = "uint16"
    """The integer of a headerless .bin."""
    column: str | None = None
    """The Parquet, Arrow or JSONL field with text or token lists (default: `text`, `tokens` or `input_ids`,
    whichever is there)."""
    bos: bool = False
    """Put the tokenizer's beginning-of-sequence token before each document; if the model was trained so."""
    offset: int | Literal["random"] = 0
    """Where a sequence's window starts in its row, in tokens; `random` draws it per row from `seed`."""
    short_rows: Literal["error", "skip"] = "error"
    """Rows shorter than the window: refuse the corpus, or leave them out and count them."""
    sequences: str | None = None
    """A Parquet or CSV file with a `sequence_id` column: score these rows only. Its column `num_repeats`, if
    there, is kept."""
    sample: int | None = None
    """Score this many rows drawn at random without replacement (by `seed`); default all."""
    seed: int = 0
    """Seed of `sample` and of random offsets."""

    def __post_init__(self) -> None:
        if self.row_tokens < 2:
            raise ConfigError(f"row_tokens: {self.row_tokens} given; expected 2 or more")
        if self.sample is not None and self.sample < 1:
            raise ConfigError(f"sample: {self.sample} given; expected 1 or more")
        if self.sample is not None and self.sequences is not None:
            raise ConfigError("sample and sequences are both given; expected one of them")
        if isinstance(self.offset, int) and self.offset < 0:
            raise ConfigError(f"offset: {self.offset} given; expected 0 or more, or 'random'")

    @property
    def paths(self) -> tuple[str, ...]:
        """The addresses as a tuple, however they were given."""
        return (self.path,) if isinstance(self.path, str) else self.path


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One causal language model at one revision."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    source: str
    """A folder with config.json and *.safetensors, or a hub name such as EleutherAI/pythia-70m-deduped."""
    revision: str | None = None
    """A hub branch, tag or commit (step143000), or the subfolder of a local source with that revision."""
    name: str | None = None
    """The model's name in folders, tables and figures (default: the source's last part, and the revision)."""
    dtype: Dtype = "float32"
    """The number format of weights and activations; logits are always compared in float32."""
    device: Device = "auto"
    """Where the model runs; `auto` takes cuda, then mps, then cpu."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    """transformers' attention implementation; default its own choice."""
    remote_code: bool = False
    """Run code that the model's repository brings along; off unless asked for here by name."""
    audit: bool | float = False
    """Score sequences again in float32 whose smallest margin is below this number of logits; `true` takes the number
    format's own: 0.25 in bfloat16, 0.05 in float16."""

    def __post_init__(self) -> None:
        if self.audit is not False and self.dtype == "float32":
            raise ConfigError("models.audit: given with dtype float32; expected bfloat16 or float16 to be audited")
        if self.audit is not False and not 0 < self.audit < math.inf:
            raise ConfigError(f"models.audit: {self.audit} given; expected true, or logits above 0")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@+-]*", self.label):
            raise ConfigError(
                f"models.name: {self.label!r} given; expected letters, digits, . _ @ + - (it names a folder)"
            )

    @property
    def label(self) -> str:
        """The model's name in folders, tables and figures."""
        if self.name is not None:
            return self.name
        base = self.source.rstrip("/").rsplit("/", 1)[-1] or self.source
        return base if self.revision is None else f"{base}@{self.revision}"

    @property
    def audit_margin(self) -> float | None:
        """Logits below which a margin has its sequence scored again in float32; None where there is no audit."""
        return FRAGILE_MARGIN[self.dtype] if self.audit is True else float(self.audit) or None

    @property
    def training_step(self) -> int | None:
        """The training step a revision named `stepN` stands for; None for other names."""
        matched = re.fullmatch(r"step(\d+)", self.revision or "")
        return int(matched.group(1)) if matched else None


@dataclass(frozen=True, kw_only=True)
class GradedSampleConfig:
    """Which sequences of mode `two-phase` have their match bits: a probability sample, see `graded_sample`."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    share: float = 0.05
    """Probability with which a sequence is graded."""
    near_share: float | None = None
    """The same of a sequence of which, at some context, half of the shortest continuation or more is recited (default:
    five times `share`, at most 1). Those that need no decoding at all are always graded."""
    seed: int = 0
    """Seed of the draw, the same for every model."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"share: {self.share} given; expected a probability above 0, at most 1")
        if self.near_share is not None and not self.share <= self.near_share <= 1:
            raise ConfigError(f"near_share: {self.near_share} given; expected {self.share} (the share) to 1")

    @property
    def probabilities(self) -> tuple[float, float, float]:
        """Of sequences that need no decoding, of near ones, and of the others; descending."""
        return 1.0, min(1.0, 5 * self.share) if self.near_share is None else self.near_share, self.share


@dataclass(frozen=True, kw_only=True)
class TracesConfig:
    """Which sequences are traced token by token: a sample stratified by the number of matched tokens."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    per_stratum: int = 200
    """Sequences per number of matched tokens, group and context; all where there are fewer."""
    continuation: int | None = None
    """The n whose matched tokens make the strata; one of the study's (default: the smallest)."""
    path_tokens: int | None = None
    """Tokens of the continuation that are traced, from `continuation` to the study's largest (default: the former)."""
    context_layers: tuple[int, ...] = ()
    """Layers whose states inside the context are kept besides the last layer's, for prediction; 0 is the embeddings'
    output, i that of block i."""
    contexts: tuple[int, ...] | None = None
    """Contexts that are traced; some of the study's (default: the smallest). The first one's traces are analysed."""
    seed: int = 0
    """Seed of the draw."""

    def __post_init__(self) -> None:
        if self.per_stratum < 1:
            raise ConfigError(f"per_stratum: {self.per_stratum} given; expected 1 or more")
        if list(self.context_layers) != sorted({layer for layer in self.context_layers if layer >= 0}):
            raise ConfigError(
                f"context_layers: {list(self.context_layers)} given; expected 0 or more in ascending order, each once"
            )


@dataclass(frozen=True, kw_only=True)
class CountsConfig:
    """What is counted in the training corpus for the traced sequences, in one pass over it."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    ngrams: tuple[int, ...] = (1, 2)
    """Lengths of the n-grams whose corpus frequency is counted at every index, in tokens."""

    def __post_init__(self) -> None:
        if not {1, 2} <= set(self.ngrams):
            raise ConfigError(f"ngrams: {list(self.ngrams)} given; expected 1 and 2 among them, which are analysed")
        if min(self.ngrams) < 1 or list(self.ngrams) != sorted(set(self.ngrams)):
            raise ConfigError(
                f"ngrams: {list(self.ngrams)} given; expected positive lengths in ascending order, each once"
            )


@dataclass(frozen=True, kw_only=True)
class PredictionConfig:
    """Predictors of what a model will recite, trained on its traces."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    models: tuple[str, ...] | None = None
    """Names of the models whose recitation is predicted (default: the last step of each)."""
    predictors: tuple[str, ...] | None = None
    """Which are trained, of transformer, transformer-facts, lstm, original, original-fixed, majority, index-rate,
    logistic, boosting, boosting-full, smaller and earlier (default: all)."""
    num_seeds: int = 3
    """Predictors of each kind, trained from as many seeds."""
    use_frequency: bool = False
    """Let predictors see the corpus frequency of the context's n-grams; needs `counts`."""
    use_copies: bool = False
    """Let predictors see how many other copies of the window the corpus holds; needs `counts`."""

    def __post_init__(self) -> None:
        if self.num_seeds < 1:
            raise ConfigError(f"num_seeds: {self.num_seeds} given; expected 1 or more")
        alien = [name for name in self.predictors or () if name not in PREDICTORS]
        if alien or self.predictors == ():
            raise ConfigError(f"predictors: {alien} given; expected some of {', '.join(PREDICTORS)}")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """One study: models over one corpus and its control, at one grid."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    models: tuple[ModelConfig, ...]
    """The models or checkpoints, scored in this order."""
    corpus: CorpusConfig
    """The text the models were trained on: the members."""
    contexts: tuple[int, ...]
    """Context lengths k, in tokens, ascending."""
    continuations: tuple[int, ...]
    """Continuation lengths n, in tokens, ascending."""
    control: CorpusConfig | None = None
    """Text of the same kind that the models never saw; the excess over it is called memorization."""
    mode: StudyMode = "graded"
    """`exact`: full match, first mismatch, log-probabilities from one pass; `graded`: every match bit too; `two-phase`:
    the former of all sequences, match bits of a probability sample. `imported` is what import-scores writes:
    num_matched alone, scored elsewhere."""
    graded_sample: GradedSampleConfig | None = None
    """Which sequences have match bits in mode `two-phase` (default there: the section's defaults)."""
    batch_size: int | Literal["auto"] = "auto"
    """Sequences per forward pass; `auto` chooses from free memory once per run and records it."""
    shard_rows: int = 4096
    """Sequences per shard of the store: the most that a kill can lose."""
    flip_sample: int = 256
    """Sequences of each group that are scored in float32, too, for every model in another number format, to tell how
    often it says something else; 0: none."""
    traces: TracesConfig | None = None
    """Per-token facts of a sample, for the analyses of frequency, entropy and embeddings; needs mode `graded` or
    `two-phase`."""
    counts: CountsConfig | None = None
    """Corpus frequencies and copies of the traced sequences, for the analysis of frequency; needs `traces`."""
    prediction: PredictionConfig | None = None
    """Predictors trained on the traces, for the analysis of prediction; needs `traces`."""

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("models: none given; expected at least one [[models]] table")
        labels = [model.label for model in self.models]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ConfigError(f"models: the name {twice[0]!r} is given twice; expected each once (set `name`)")
        if self.shard_rows < 1:
            raise ConfigError(f"shard_rows: {self.shard_rows} given; expected 1 or more")
        if self.flip_sample < 0:
            raise ConfigError(f"flip_sample: {self.flip_sample} given; expected 0 or more")
        if isinstance(self.batch_size, int) and self.batch_size < 1:
            raise ConfigError(f"batch_size: {self.batch_size} given; expected 1 or more, or 'auto'")
        if self.graded_sample is not None and self.mode != "two-phase":
            raise ConfigError(f"graded_sample: given with mode {self.mode!r}; expected mode 'two-phase'")
        self._check_traces()
        _ = self.grid  # a grid out of order is refused here, not at the first batch

    def _check_traces(self) -> None:
        if self.counts is not None and self.traces is None:
            raise ConfigError("counts: given without traces; expected a [traces] section, whose sequences are counted")
        if self.prediction is not None:
            self._check_prediction(self.prediction)
        if self.traces is None:
            return
        if self.mode not in ("graded", "two-phase"):
            raise ConfigError(
                f"traces: given with mode {self.mode!r}; expected mode 'graded' or 'two-phase', whose matches make the "
                "strata"
            )
        if self.traces.continuation not in (None, *self.continuations):
            raise ConfigError(
                f"traces.continuation: {self.traces.continuation} given; expected one of {list(self.continuations)}"
            )
        reference = self.traces.continuation or self.continuations[0]
        if not reference <= (self.traces.path_tokens or reference) <= self.continuations[-1]:
            raise ConfigError(
                f"traces.path_tokens: {self.traces.path_tokens} given; expected {reference} (the continuation whose "
                f"matches make the strata) to {self.continuations[-1]} (the longest)"
            )
        alien = sorted(set(self.traces.contexts or ()) - set(self.contexts))
        if alien or self.traces.contexts == ():
            raise ConfigError(f"traces.contexts: {alien} given; expected some of {list(self.contexts)}")

    def _check_prediction(self, prediction: PredictionConfig) -> None:
        if self.traces is None:
            raise ConfigError("prediction: given without traces; expected a [traces] section, from which it is learned")
        if self.counts is None and (prediction.use_frequency or prediction.use_copies):
            raise ConfigError(
                "prediction: use_frequency or use_copies given without counts; expected a [counts] section"
            )
        alien = sorted(set(prediction.models or ()) - {model.label for model in self.models})
        if alien or prediction.models == ():
            names = ", ".join(model.label for model in self.models)
            raise ConfigError(f"prediction.models: {alien} given; expected some of {names}")

    @property
    def grid(self) -> Grid:
        """The contexts and continuations."""
        return Grid(contexts=self.contexts, continuations=self.continuations)

    @property
    def scoring_mode(self) -> Mode:
        """The most that scoring does with a sequence; ConfigError for imported scores, which nothing can go on with."""
        if self.mode == "imported":
            raise ConfigError(
                "mode: 'imported' given, which import-scores writes; expected 'graded', 'two-phase' or 'exact' to score"
            )
        return "exact" if self.mode == "exact" else "graded"

    @property
    def second_phase(self) -> GradedSampleConfig | None:
        """Which sequences are graded in mode `two-phase`; None in the others."""
        return (self.graded_sample or GradedSampleConfig()) if self.mode == "two-phase" else None

    @property
    def groups(self) -> dict[str, CorpusConfig]:
        """The corpora by group: `member`, and `control` where there is one."""
        return {"member": self.corpus} | ({"control": self.control} if self.control else {})
