"""A range of sequences -> its shard, scored and committed: the worker of a run, and how it is made in any process."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.config import GradedSampleConfig, Grid, Mode
from mnemoscope.corpus import Windows, check_vocabulary
from mnemoscope.engines import Once
from mnemoscope.errors import CorpusError, ModelError, ScoringError, StoreError
from mnemoscope.facts import GradedRows, MatchFacts
from mnemoscope.graded_sample import draw_graded
from mnemoscope.rescoring import find_fragile, load_reference, replace_facts
from mnemoscope.shards import SequenceRows, ShardRange, hash_windows, scores_schema, scores_table
from mnemoscope.storage import Storage
from mnemoscope.store import Run, ShardRecord, commit_shard, read_run
from mnemoscope.texts import GroupText

if TYPE_CHECKING:
    from mnemoscope.model import CausalLM


@final
@dataclass(frozen=True, kw_only=True)
class ScorerFactory:
    """Makes the workers of a run: here with the model that is loaded already, elsewhere with one of its own."""

    run: Run
    model: Once[CausalLM]
    texts: Once[dict[str, GroupText]]
    folder: Path | Storage
    reference: Once[CausalLM] | None = None
    """The float32 copy that an audit scores with; None without one."""

    @property
    def device(self) -> str:
        """Where the model runs."""
        return self.run.identity.weights.device

    def __call__(self, tell: Callable[[int], None]) -> ShardScorer:
        """A worker; ModelError or CorpusError where the files are not those any more that the run began with."""
        self._check_folder()
        model, texts = self.model(), self.texts()
        check_unchanged(self.run, model, texts, doing="scored")
        reference = None
        if self.reference is not None:
            reference = load_reference(self.reference, model.identity, model.device, label=self.run.label)
        return ShardScorer(run=self.run, model=model, texts=texts, folder=self.folder, tell=tell, reference=reference)

    def release(self) -> None:
        """Let go of the model, and of the memory that it held on its device."""
        let_go(self.model)
        if self.reference is not None:
            let_go(self.reference)

    def _check_folder(self) -> None:
        """Refuse to write where nobody would look for it."""
        there = read_run(self.folder, self.run.label)
        if there is None or there.fingerprint != self.run.fingerprint:
            raise StoreError(
                f"{self.folder}: on {socket.gethostname()} it is not the folder of this run; "
                "expected one that every machine shares, at the same path"
            )


def check_unchanged(run: Run, model: CausalLM, texts: Mapping[str, GroupText], *, doing: str) -> None:
    """ModelError or CorpusError where the files are not those any more that the run began with."""
    if model.identity != run.identity.model:
        raise ModelError(f"{run.label}: its files changed while it was {doing}; expected them to stay")
    if {group: text.identity for group, text in texts.items()} != run.identity.groups:
        raise CorpusError(f"{run.label}: the corpora changed while it was {doing}; expected them to stay")


def let_go(model: Once[CausalLM]) -> None:
    """Release a model, and the memory that it held on its device."""
    import torch

    model.release()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@final
@dataclass(frozen=True, kw_only=True)
class ShardScorer:
    """The worker of a run: scores a range of sequences and commits it."""

    run: Run
    model: CausalLM
    texts: dict[str, GroupText]
    folder: Path | Storage
    tell: Callable[[int], None]
    """Told the number of sequences behind each batch."""
    reference: CausalLM | None = None
    """The float32 copy of the model, where the run is audited."""

    def __call__(self, shard: ShardRange) -> ShardRecord:
        """The commit of the shard, on disk when it returns."""
        identity, text = self.run.identity, self.texts[shard.group]
        part = slice(shard.start, shard.stop)
        windows = text.read(text.selection.sequence_ids[part])
        check_vocabulary(windows, identity.weights.vocab_size, text.corpus)
        mode: Mode = "exact" if identity.mode == "exact" else "graded"
        choose = self._draw(shard.group, windows)
        facts = facts_of(
            self.run, self.model, windows, mode=mode, choose=choose and choose.are_graded, progress=self.tell
        )
        facts, num_audited = self._audit(shard.group, windows, facts, mode=mode)
        schema = scores_schema(
            identity.grid, mode=identity.mode, label=self.run.label, fingerprint=self.run.fingerprint
        )
        repeats = _repeats(text, part, windows.sequence_ids)
        rows = SequenceRows(windows.sequence_ids, windows.offsets, repeats, hash_windows(windows.tokens))
        graded = None if choose is None else choose.draw(slice(None), facts.first_mismatch_RC)
        table = scores_table(shard.group, rows, facts, schema=schema, grid=identity.grid, graded=graded)
        return commit_shard(self.folder, self.run, shard, table, num_short=windows.num_short, num_audited=num_audited)

    def _audit(self, group: str, windows: Windows, facts: MatchFacts, *, mode: Mode) -> tuple[MatchFacts, int]:
        """The facts with those of fragile sequences as float32 has them, and how many these are."""
        margin = self.run.identity.audit_margin
        if self.reference is None or margin is None:
            return facts, 0
        rows_A = np.flatnonzero(find_fragile(facts, margin))
        if not len(rows_A):
            return facts, 0
        fragile = Windows(windows.sequence_ids[rows_A], windows.offsets[rows_A], windows.tokens[rows_A], num_short=0)
        choose = self._draw(group, fragile)
        audited = facts_of(self.run, self.reference, fragile, mode=mode, choose=choose and choose.are_graded)
        return replace_facts(facts, rows_A, audited), len(rows_A)

    def _draw(self, group: str, windows: Windows) -> _SecondPhase | None:
        """How some windows' second phase is drawn; None where the study has none."""
        identity = self.run.identity
        if identity.graded_sample is None:
            return None
        return _SecondPhase(windows.sequence_ids, group, identity.grid, identity.graded_sample)


class _SecondPhase(NamedTuple):
    """Draws the second phase among sequences as their first mismatches become known."""

    sequence_ids: NDArray[np.int64]
    group: str
    grid: Grid
    settings: GradedSampleConfig

    def draw(self, rows: slice, first_mismatch_RC: NDArray[np.int32]) -> GradedRows:
        """The second phase among some of them."""
        ids = self.sequence_ids[rows]
        return draw_graded(ids, first_mismatch_RC, group=self.group, grid=self.grid, settings=self.settings)

    def are_graded(self, rows: slice, first_mismatch_RC: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which of some of them are graded."""
        return self.draw(rows, first_mismatch_RC).is_graded_R


def _repeats(text: GroupText, part: slice, kept: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The repeats of the sequences of a part that were long enough."""
    if text.selection.num_repeats is None:
        return None
    return text.selection.num_repeats[part][np.isin(text.selection.sequence_ids[part], kept)]


def facts_of(
    run: Run,
    model: CausalLM,
    windows: Windows,
    *,
    mode: Mode,
    choose: Callable[[slice, NDArray[np.int32]], NDArray[np.bool_]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> MatchFacts:
    """The match facts of some windows (see `score_sequences`); an error that one of them causes names its sequence."""
    from mnemoscope.scoring import score_sequences

    try:
        return score_sequences(
            model,
            windows.tokens,
            run.identity.grid,
            mode=mode,
            batch_size=run.identity.batch_size,
            choose=choose,
            progress=progress,
        )
    except ScoringError as error:
        where = "" if error.row is None else f", sequence {windows.sequence_ids[error.row]}"
        raise ScoringError(f"{run.label}{where}: {error}", error.row) from error
