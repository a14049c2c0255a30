"""Which run it was: the model, the texts and the settings that decide every stored fact; their fingerprint.

Two runs of one fingerprint give the same tables; a results folder takes in one fingerprint per model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from mnemoscope.config import GradedSampleConfig, Grid, StudyMode
from mnemoscope.errors import StoreError


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """Which weights were run, and how: what a result must name to be repeated."""

    architecture: str
    num_parameters: int
    num_non_embedding_parameters: int
    """Parameters outside the input and output embeddings, the size on which scaling trends are drawn."""
    vocab_size: int
    """Rows of the output embedding: token ids below this can be scored."""
    max_positions: int | None
    """Longest sequence the model has positions for, in tokens; None where it has no bound."""
    weights_sha256: str
    config_sha256: str
    """Of the architecture's settings (widths, positions): the same weights under others are another model."""
    commit: str | None
    """The hub commit that was loaded; None for a local folder."""
    dtype: str
    device: str
    """The device's type: cpu, cuda or mps."""
    attention: str


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """A model whose scores were computed elsewhere: what is known of it, and which scores they are."""

    num_parameters: int | None
    """None where nobody said."""
    num_non_embedding_parameters: int
    scores_sha256: dict[str, str]
    """By group, context and continuation, such as `member-32-16`: of the sequence_ids, ascending, and of their
    num_matched. A cell that is not listed is unknown."""


@dataclass(frozen=True, kw_only=True)
class GroupIdentity:
    """Which windows of which sequences a group consists of; what an import cannot know is None."""

    corpus: str | None
    """The corpus's fingerprint, hex."""
    selection: str
    """The selection's fingerprint, hex; of imported scores that of the sequence_ids."""
    num_sequences: int
    """Sequences selected, those that may turn out too short included."""
    offset: int | Literal["random"] | None
    seed: int | None
    """Seed of random offsets; None where none is drawn."""
    short_rows: Literal["error", "skip"] | None


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """Everything that the stored facts of one model follow from."""

    model: ModelIdentity | ImportedModel
    groups: dict[str, GroupIdentity]
    contexts: tuple[int, ...]
    continuations: tuple[int, ...]
    mode: StudyMode
    batch_size: int
    """Sequences per pass, as resolved: a resume composes the same batches. 0 where scores were imported."""
    shard_rows: int
    versions: dict[str, str]
    """Of mnemoscope, of the scores table's format, of torch and of transformers."""
    graded_sample: GradedSampleConfig | None = None
    """Which sequences have match bits in mode `two-phase`; None in other modes."""
    audit_margin: float | None = None
    """Logits: sequences with a smaller margin on a path were scored again in float32; None without an audit."""

    @property
    def grid(self) -> Grid:
        """The contexts and continuations."""
        return Grid(contexts=self.contexts, continuations=self.continuations)

    @property
    def weights(self) -> ModelIdentity:
        """The model as it was run here; StoreError where its scores were imported."""
        if isinstance(self.model, ImportedModel):
            raise StoreError("the scores were imported: there is no model to go on with; use another results folder")
        return self.model

    @property
    def fingerprint(self) -> str:
        """sha256, hex, of all of it; without second phase and audit the one that it had before there were any."""
        facts = asdict(self)
        for name in ("graded_sample", "audit_margin"):
            if facts[name] is None:
                del facts[name]
        text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, here: RunIdentity) -> list[str]:
        """What differs, such as `contexts: 32,48 there, 16 here`; self is what lies there."""
        return _differences(asdict(self), asdict(here))

    def study_differences(self, here: RunIdentity) -> list[str]:
        """What differs of the facts that all models of one study share: texts, grid, mode, shard size, columns."""
        return _differences(_shared_facts(self), _shared_facts(here))


def _shared_facts(identity: RunIdentity) -> dict[str, Any]:
    shared = ("groups", "contexts", "continuations", "mode", "graded_sample", "shard_rows")
    facts = {name: value for name, value in asdict(identity).items() if name in shared}
    return facts | {"scores_format": identity.versions.get("scores", "1")}


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    old, new = dict(_flatten(there)), dict(_flatten(here))
    return [
        f"{name}: {old.get(name, 'none')} there, {new.get(name, 'none')} here"
        for name in old | new
        if old.get(name) != new.get(name)
    ]


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flatten(cast(Mapping[str, Any], value), f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield prefix + name, ",".join(str(item) for item in cast(list[object], value))
        else:
            yield prefix + name, str(value)
