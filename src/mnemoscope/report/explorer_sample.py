"""The sequences that a page carries, and how many scored ones each stands for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mnemoscope.sequence_facts import SequencePick


@dataclass(frozen=True, kw_only=True)
class ExplorerSample:
    """Sequences in the order of their seats: the first of them are the sample of fewer seats."""

    picks: tuple[SequencePick, ...]
    strata: tuple[int, ...]
    """Which stratum each is of."""
    traced_weights: tuple[float, ...]
    """The weight of each among its stratum's candidates; 1 where these are all of its sequences."""
    sizes: tuple[int, ...]
    """Scored sequences of each stratum."""
    model: str
    """Under which the strata are counted: the largest final one."""
    context: int
    continuation: int
    seed: int

    @property
    def weights(self) -> tuple[float, ...]:
        """How many scored sequences each stands for."""
        strata, own = np.array(self.strata, np.int64), np.array(self.traced_weights)
        sums = np.bincount(strata, weights=own, minlength=len(self.sizes))
        return tuple((own * np.array(self.sizes)[strata] / sums[strata]).tolist())

    @property
    def note(self) -> str:
        """What the sample is, in words."""
        total = sum(self.sizes)
        if len(self.picks) == total:
            return f"All {total:,} scored sequences."
        return (
            f"{len(self.picks):,} of {total:,} scored sequences, drawn at random (seed {self.seed}) as evenly as "
            f"{len(self.sizes)} strata allow: group by tokens matched of the first {self.continuation} after "
            f"{self.context}, under {self.model}. A sequence's weight is the number of scored sequences that it stands "
            "for."
        )

    def cut(self, num_sequences: int) -> ExplorerSample:
        """The sample of fewer seats; at least one for each stratum, or weights would not add up."""
        size = max(num_sequences, len(self.sizes))
        return replace(
            self,
            picks=self.picks[:size],
            strata=self.strata[:size],
            traced_weights=self.traced_weights[:size],
        )
