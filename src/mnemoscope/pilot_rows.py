"""Random rows of a corpus that a pilot scores, and what they say: full matches, duplicates, bytes of a shard.

Axes: R rows, C contexts, W tokens of a window.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.config import GradedSampleConfig, Grid, Mode, StudyConfig
from mnemoscope.corpus import Windows, check_vocabulary
from mnemoscope.corpus.draws import sample_below
from mnemoscope.errors import CorpusError
from mnemoscope.facts import MatchFacts
from mnemoscope.graded_sample import inclusion_probabilities
from mnemoscope.sample_sizes import design_effect
from mnemoscope.shards import SequenceRows, hash_windows, scores_schema, scores_table
from mnemoscope.store import encode_table
from mnemoscope.study_plan import CellCount, Storing
from mnemoscope.texts import GroupText

if TYPE_CHECKING:
    from mnemoscope.model import CausalLM

MOST_ROWS: Final = 1 << 16
"""Of a group that a pilot draws; it begins again with the first when it has seen them all."""


class Call(NamedTuple):
    """A timed piece of work."""

    num_sequences: int
    seconds: float


@final
class RandomRows:
    """Random rows of a group in an order of their own, from the first again when all have been."""

    def __init__(self, text: GroupText, *, seed: int) -> None:
        self.text = text
        count = min(MOST_ROWS, num_available(text))
        drawn = sample_below(num_available(text), count=count, seed=seed)
        places = np.random.default_rng(seed).permutation(drawn)
        self._ids = places if _is_whole(text) else np.asarray(text.selection.sequence_ids[:])[places]
        self._next = 0

    def __len__(self) -> int:
        return len(self._ids)

    def take(self, num_rows: int) -> Windows:
        """The windows of so many rows, or of fewer where some are too short; CorpusError where all are."""
        for _ in range(-(-len(self._ids) // num_rows)):
            places = np.arange(self._next, self._next + num_rows) % len(self._ids)
            self._next += num_rows
            windows = self.text.read(self._ids[places])
            if len(windows.sequence_ids):
                return windows
        raise CorpusError(
            f"{self.text.config.paths[0]}: each of {len(self._ids):,} rows drawn is too short; "
            f"expected rows of {self.text.window_tokens} tokens after the offset"
        )


def _is_whole(text: GroupText) -> bool:
    """Whether all rows of the corpus can be had, and not just those that a file lists."""
    return text.config.sequences is None


def num_available(text: GroupText) -> int:
    """Rows that could be selected: all of the corpus, or all of a list."""
    return len(text.corpus) if _is_whole(text) else len(text.selection)


@dataclass
class SeenRows:
    """The rows of a group that were scored, with what is known of them."""

    rows: RandomRows
    num_scored: int = 0
    """Rows that come again included."""
    _facts: dict[Mode, list[tuple[Windows, MatchFacts]]] = field(default_factory=lambda: {"exact": [], "graded": []})

    def score(self, model: CausalLM, grid: Grid, mode: Mode, batch_size: int, num_rows: int) -> Call:
        """Score some rows; the seconds are the model's alone."""
        from mnemoscope.scoring import score_sequences

        windows = self.rows.take(num_rows)
        check_vocabulary(windows, model.identity.vocab_size, self.rows.text.corpus)
        begun = time.monotonic()
        facts = score_sequences(model, windows.tokens, grid, mode=mode, batch_size=batch_size)
        seconds = time.monotonic() - begun
        self.num_scored += len(windows.sequence_ids)
        if sum(len(kept.sequence_ids) for kept, _ in self._facts[mode]) < len(self.rows):
            self._facts[mode].append((windows, facts))
        return Call(len(windows.sequence_ids), seconds)

    def count(self, group: str, study: StudyConfig) -> list[CellCount]:
        """Full matches at the cells of interest, each row once."""
        parts = [part for some in self._facts.values() for part in some]
        ids_R = np.concatenate([windows.sequence_ids for windows, _ in parts])
        ids_R, first_R = np.unique(ids_R, return_index=True)
        misses_RC = np.concatenate([facts.first_mismatch_RC for _, facts in parts])[first_R]
        hashes_R = hash_windows(np.concatenate([windows.tokens for windows, _ in parts])[first_R])
        cells: list[CellCount] = []
        for context, continuation in cells_of_interest(study):
            full_R = misses_RC[:, study.contexts.index(context)] >= continuation
            cells.append(
                CellCount(
                    group=group,
                    context=context,
                    continuation=continuation,
                    num_full=int(full_R.sum()),
                    num_sequences=len(ids_R),
                    design_effect=design_effect(full_R, hashes_R),
                )
            )
        return cells

    def near_share(self, study: StudyConfig) -> float:
        """The share of its rows, those that come again included, that mode `two-phase` grades as near ones."""
        settings = GradedSampleConfig(share=0.25, near_share=0.5)
        misses_RC = np.concatenate([facts.first_mismatch_RC for some in self._facts.values() for _, facts in some])
        _, near, _ = settings.probabilities
        return float((inclusion_probabilities(misses_RC, study.grid, settings) == near).mean())

    def measure_storing(self, study: StudyConfig) -> Storing:
        """What its scores take as a shard in the study's mode: of all of them, and of half to tell what is fixed."""
        parts = self._facts[study.scoring_mode]
        windows = [each for each, _ in parts]
        tokens_RW = np.concatenate([each.tokens for each in windows])[: study.shard_rows]
        num_rows = len(tokens_RW)
        facts = _join([each for _, each in parts])
        ids_R, offsets_R = (
            np.concatenate([getattr(each, name) for each in windows]) for name in ("sequence_ids", "offsets")
        )
        schema = scores_schema(study.grid, mode=study.scoring_mode, label="", fingerprint=" " * 64)

        def encode(count: int) -> int:
            rows = SequenceRows(ids_R[:count], offsets_R[:count], None, hash_windows(tokens_RW[:count]))
            table = scores_table("member", rows, _first(facts, count), schema=schema, grid=study.grid)
            return len(encode_table(table))

        half = encode(max(1, num_rows // 2))
        begun = time.monotonic()
        whole = encode(num_rows)
        encoding = (time.monotonic() - begun) / num_rows
        slope = (whole - half) / (num_rows - num_rows // 2) if num_rows > 1 else float(whole)
        return Storing(
            bytes_per_sequence=slope,
            bytes_per_shard=max(0.0, whole - slope * num_rows),
            seconds_per_sequence=encoding + self._reading_seconds(num_rows),
        )

    def _reading_seconds(self, num_rows: int) -> float:
        """Seconds to read one of so many rows as a shard reads them: one after the other."""
        text = self.rows.text
        begun = time.monotonic()
        text.read(text.selection.sequence_ids[:num_rows], short_rows="skip")
        return (time.monotonic() - begun) / min(num_rows, len(text.selection))


def cells_of_interest(study: StudyConfig) -> list[tuple[int, int]]:
    """The cell that findings speak of (n nearest k, the shorter k), and the longest context and continuation."""
    cells = [(context, continuation) for context in study.contexts for continuation in study.continuations]
    reference = min(cells, key=lambda cell: (abs(cell[0] - cell[1]), cell))
    return list(dict.fromkeys([reference, cells[-1]]))


def _join(facts: list[MatchFacts]) -> MatchFacts:
    columns: list[NDArray[Any] | None] = [
        None if some[0] is None else np.concatenate(some) for some in zip(*facts, strict=True)
    ]
    return MatchFacts(*columns)  # pyright: ignore[reportArgumentType]  (only the first may be None)


def _first(facts: MatchFacts, count: int) -> MatchFacts:
    return MatchFacts(*(None if values is None else values[:count] for values in facts))  # pyright: ignore[reportArgumentType]
