"""A study file as frozen dataclasses. One TOML is one study; its resolved copy lies beside the results.

pydantic validates at the file's border (`load_study`), so that every mistake in a file is reported at once
with its path; inside the program these are plain dataclasses. Each field's docstring says what it means; a
field without a default is required.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

from mnemoscope.errors import ConfigError

Mode = Literal["exact", "graded"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["float32", "bfloat16", "float16"]
CorpusFormat = Literal["auto", "megatron", "document", "npy", "tokens", "text"]
Layout = Literal["documents", "packed"]

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

    def __post_init__(self) -> None:
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
    def training_step(self) -> int | None:
        """The training step a revision named `stepN` stands for; None for other names."""
        matched = re.fullmatch(r"step(\d+)", self.revision or "")
        return int(matched.group(1)) if matched else None


@dataclass(frozen=True, kw_only=True)
class TracesConfig:
    """Which sequences are traced token by token: a sample stratified by the number of matched tokens."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    per_stratum: int = 200
    """Sequences per number of matched tokens, group and context; all where there are fewer."""
    continuation: int | None = None
    """The n whose matched tokens make the strata, and where traces end; one of the study's (default: the smallest)."""
    contexts: tuple[int, ...] | None = None
    """Contexts that are traced; some of the study's (default: the smallest)."""
    seed: int = 0
    """Seed of the draw."""

    def __post_init__(self) -> None:
        if self.per_stratum < 1:
            raise ConfigError(f"per_stratum: {self.per_stratum} given; expected 1 or more")


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
    mode: Mode = "graded"
    """`exact`: full match, first mismatch, log-probabilities from one pass; `graded`: every match bit too."""
    batch_size: int | Literal["auto"] = "auto"
    """Sequences per forward pass; `auto` chooses from free memory once per run and records it."""
    shard_rows: int = 4096
    """Sequences per shard of the store: the most that a kill can lose."""
    traces: TracesConfig | None = None
    """Per-token facts of a sample, for the analyses of frequency, entropy and embeddings; needs mode `graded`."""
    counts: CountsConfig | None = None
    """Corpus frequencies and copies of the traced sequences, for the analysis of frequency; needs `traces`."""

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("models: none given; expected at least one [[models]] table")
        labels = [model.label for model in self.models]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ConfigError(f"models: the name {twice[0]!r} is given twice; expected each once (set `name`)")
        if self.shard_rows < 1:
            raise ConfigError(f"shard_rows: {self.shard_rows} given; expected 1 or more")
        if isinstance(self.batch_size, int) and self.batch_size < 1:
            raise ConfigError(f"batch_size: {self.batch_size} given; expected 1 or more, or 'auto'")
        self._check_traces()
        _ = self.grid  # a grid out of order is refused here, not at the first batch

    def _check_traces(self) -> None:
        if self.counts is not None and self.traces is None:
            raise ConfigError("counts: given without traces; expected a [traces] section, whose sequences are counted")
        if self.traces is None:
            return
        if self.mode != "graded":
            raise ConfigError(
                f"traces: given with mode {self.mode!r}; expected mode 'graded', whose matches make the strata"
            )
        if self.traces.continuation not in (None, *self.continuations):
            raise ConfigError(
                f"traces.continuation: {self.traces.continuation} given; expected one of {list(self.continuations)}"
            )
        alien = sorted(set(self.traces.contexts or ()) - set(self.contexts))
        if alien or self.traces.contexts == ():
            raise ConfigError(f"traces.contexts: {alien} given; expected some of {list(self.contexts)}")

    @property
    def grid(self) -> Grid:
        """The contexts and continuations."""
        return Grid(contexts=self.contexts, continuations=self.continuations)

    @property
    def groups(self) -> dict[str, CorpusConfig]:
        """The corpora by group: `member`, and `control` where there is one."""
        return {"member": self.corpus} | ({"control": self.control} if self.control else {})


def load_study(path: Path) -> StudyConfig:
    """The study in a TOML file, its relative paths made absolute against the file's folder.

    ConfigError, one line with every mistake and its place: no such file, no TOML, unknown or missing
    settings, values of a wrong kind. Values are taken as they are: "4" is no number.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected a study file (TOML)") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    try:
        # As JSON, since only there pydantic is strict about numbers and yet takes a list for a tuple.
        config = TypeAdapter(StudyConfig).validate_json(json.dumps(document, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_describe_mistakes(error.errors())}") from error
    return resolve_paths(config, path.parent)


def dump_study(config: StudyConfig) -> str:
    """The study as TOML, with its defaults written out: `load_study` of it is the same study.

    What is None is left out, since TOML has no word for it.
    """
    study = asdict(config)
    tables = {name: study.pop(name) for name in (*_SECTIONS, "models")}
    sections = [_dump_table(study)]
    sections += [f"[{name}]\n{_dump_table(tables[name])}" for name in _SECTIONS if tables[name] is not None]
    sections += [f"[[models]]\n{_dump_table(model)}" for model in tables["models"]]
    return "\n".join(sections)


def resolve_paths(config: StudyConfig, base: Path) -> StudyConfig:
    """The study with relative paths made absolute against `base`; hub names and fsspec addresses stay."""
    base = base.absolute()
    return replace(
        config,
        models=tuple(replace(model, source=_resolve_source(model.source, base)) for model in config.models),
        corpus=_resolve_corpus(config.corpus, base),
        control=None if config.control is None else _resolve_corpus(config.control, base),
    )


def _resolve_corpus(corpus: CorpusConfig, base: Path) -> CorpusConfig:
    path = corpus.path
    return replace(
        corpus,
        path=_resolve_path(path, base) if isinstance(path, str) else tuple(_resolve_path(each, base) for each in path),
        sequences=None if corpus.sequences is None else _resolve_path(corpus.sequences, base),
        tokenizer=None if corpus.tokenizer is None else _resolve_source(corpus.tokenizer, base),
    )


def _resolve_path(address: str, base: Path) -> str:
    """An absolute path; an fsspec address such as s3://bucket/x as it is."""
    is_remote = "://" in address or "::" in address
    return address if is_remote else os.path.abspath(base / Path(address).expanduser())  # noqa: PTH100  keeps links


def _resolve_source(source: str, base: Path) -> str:
    """An absolute path where the source is a path; the hub name otherwise."""
    path = base / Path(source).expanduser()
    is_path = source.startswith((".", "~", "/")) or path.exists() or source.count("/") > 1
    return _resolve_path(source, base) if is_path else source


def _dump_table(table: Mapping[str, Any]) -> str:
    return "".join(f"{name} = {_dump_value(value)}\n" for name, value in table.items() if value is not None)


def _dump_value(value: str | float | tuple[str | int, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_dump_value(item) for item in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace(
            "\x7f", "\\u007f"
        )  # JSON's escapes, but for DEL, are TOML's
    return repr(value)


_SECTIONS: Final = ("corpus", "control", "traces", "counts")
_SETTINGS: Final = {
    "study": {each.name for each in fields(StudyConfig)},
    "corpus": {each.name for each in fields(CorpusConfig)},
    "models": {each.name for each in fields(ModelConfig)},
    "traces": {each.name for each in fields(TracesConfig)},
    "counts": {each.name for each in fields(CountsConfig)},
}


def _describe_mistakes(mistakes: list[ErrorDetails]) -> str:
    """Every mistake once, by its place; the branches of a union (`int` or `auto`) are told as one."""
    expected: dict[str, list[str]] = {}
    whole: dict[str, None] = {}
    for mistake in mistakes:
        place = _place(mistake)
        if mistake["type"] == "value_error":
            whole[_join_own_error(place, str(mistake.get("ctx", {}).get("error", mistake["msg"])))] = None
        elif mistake["type"] == "missing":
            whole[f"{place}: missing; this setting is required"] = None
        elif mistake["type"] == "unexpected_keyword_argument":
            whole[f"{place}: no such setting; expected one of {_allowed(place)}"] = None
        else:
            given = json.dumps(mistake["input"], ensure_ascii=False, default=str)
            should = mistake["msg"].removeprefix("Input should be ")
            expected.setdefault(f"{place}: {given[:80]} given", []).append(should)
    return "; ".join(
        [
            *(f"{head}; expected {' or '.join(dict.fromkeys(kinds))}" for head, kinds in expected.items()),
            *whole,
        ]
    )


def _place(mistake: ErrorDetails) -> str:
    """A path such as models[1].dtype, without the names pydantic gives to a union's branches."""
    known = set[str]().union(*_SETTINGS.values())
    *above, last = mistake["loc"] or ("",)
    if mistake["type"] == "unexpected_keyword_argument" or isinstance(last, int) or last in known:
        above.append(last)
    text = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}"
        for part in above
        if isinstance(part, int) or part in known or part is last
    )
    return text.removeprefix(".")


def _join_own_error(place: str, message: str) -> str:
    """`corpus` and `seed: -1 given` as `corpus.seed: -1 given`: our checks name the field, not the table."""
    message = message.removeprefix("models.") if place.startswith("models") else message
    if not place:
        return message
    return f"{place}.{message}" if re.match(r"\w+:", message) else f"{place}: {message}"


def _allowed(place: str) -> str:
    """The settings of the table that a place lies in."""
    table, dot, _ = place.partition(".")
    kind = "study" if not dot else table.partition("[")[0].replace("control", "corpus")
    return ", ".join(sorted(_SETTINGS[kind]))
