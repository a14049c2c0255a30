"""What predictors are trained, and how: plain numbers, read without torch.

The defaults suit a few hundred sequences on a CPU as well as tens of thousands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from mnemoscope.errors import ConfigError

Task = Literal["context", "decode"]
Prior = Literal["balanced", "natural"]

TASKS: Final[tuple[Task, ...]] = ("context", "decode")
PRIORS: Final[tuple[Prior, ...]] = ("balanced", "natural")
_CONTEXT: Final[tuple[Task, ...]] = ("context",)
_DECODE: Final[tuple[Task, ...]] = ("decode",)
HINTED: Final = ("smaller", "earlier")
"""One predictor for each hint whose name begins so; its name is the hint's."""
NETWORKS: Final = ("transformer", "transformer-facts", "lstm")
"""Networks over time; `transformer-facts` sees no hidden states, so that it fits a model of any width."""
PREDICTORS: Final[dict[str, tuple[Task, ...]]] = {
    "transformer": TASKS,
    "transformer-facts": TASKS,
    "lstm": TASKS,
    "original": _DECODE,
    "original-fixed": _DECODE,
    "majority": _CONTEXT,
    "index-rate": _CONTEXT,
    "logistic": _CONTEXT,
    "boosting": _CONTEXT,
    "boosting-full": _CONTEXT,
    "smaller": _CONTEXT,
    "earlier": _CONTEXT,
}
"""Every predictor, and the tasks it has."""
ORIGINALS: Final = ("original", "original-fixed")
"""Trained on 80 %, their checkpoint chosen on the split that they report, without chain or calibration."""


@dataclass(frozen=True, kw_only=True)
class PredictionSettings:
    """Sizes, training and features of predictors."""

    predictors: tuple[str, ...] = tuple(PREDICTORS)
    """Which are trained; see `PREDICTORS`."""
    width: int = 32
    """Of the networks' residual stream; a multiple of `heads`."""
    layers: int = 4
    """Of the Transformer: the first half reads the context, the rest attends from the continuation to all."""
    heads: int = 8
    """Of attention."""
    dropout: float = 0.1
    """Of residual branches."""
    feature_dropout: float = 0.2
    """Of standardised facts."""
    state_dropout: float = 0.5
    """Of hidden states: the share of values, and the share of sequences that are shown none."""
    state_width: int = 8
    """Dimensions that hidden states are projected to first: few, as there are hundreds of sequences."""
    epochs: int = 12
    """At most; the learning rate falls to zero over them."""
    num_shown: int = 12_000
    """Sequences shown in all, from which fewer epochs follow where there are thousands; never under 3."""
    patience: int = 5
    """Epochs without a smaller validation loss after which training ends."""
    batch_size: int = 32
    """Sequences per step."""
    learning_rate: float = 1e-2
    """At its peak."""
    weight_decay: float = 0.05
    """Of matrices."""
    original_width: int | None = 32
    """Of the original architecture, to which states are projected; None for the states' own width, as published."""
    original_batch_size: int = 64
    """Sequences that the original attends across, in training and in testing; published with 128."""
    use_frequency: bool = False
    """Show the corpus frequencies of the context's n-grams."""
    use_copies: bool = False
    """Show the number of copies of the whole window in the corpus."""
    split_seed: int = 0
    """Decides which clusters are for training, validation and testing."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.predictors if name not in PREDICTORS]
        if unknown or not self.predictors:
            raise ConfigError(f"predictors: {unknown or 'none'} given; expected some of {', '.join(PREDICTORS)}")
        if self.width % self.heads or self.layers < 2:
            raise ConfigError(
                f"prediction: width {self.width}, heads {self.heads}, layers {self.layers} given; "
                "expected a width that is a multiple of heads, and 2 layers or more"
            )
        rates = (self.dropout, self.feature_dropout, self.state_dropout)
        if not all(0 <= rate < 1 for rate in rates):
            raise ConfigError(f"prediction: dropout rates {rates} given; expected 0 to below 1")
        counts = (
            self.epochs,
            self.num_shown,
            self.patience,
            self.batch_size,
            self.original_batch_size,
            self.state_width,
        )
        if min(counts) < 1:
            raise ConfigError(
                f"prediction: {counts} given for epochs, num_shown, patience, batch_size, original_batch_size, "
                "state_width; expected 1 or more of each"
            )
