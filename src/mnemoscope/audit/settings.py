"""What an audit is asked for, as frozen dataclasses; read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, final

from mnemoscope.config import Grid, ModelConfig
from mnemoscope.errors import ConfigError

Kind = Literal["start", "offset", "turn"]
"""Where a passage stands: at its document's start, at a random place behind it, at an assistant's turn."""
PROMPT: Final = "prompt"
"""The context of turns: the prompt, or as much of its end as the longest context allows."""


@final
@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A way to draw a token: from softmax(logits / temperature) over the `top_k` largest logits."""

    temperature: float = 1.0
    top_k: int | None = None
    """None: the whole vocabulary."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature <= 100:
            raise ConfigError(f"temperature: {self.temperature} given; expected more than 0, at most 100")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k: {self.top_k} given; expected 1 or more, or none")

    @property
    def name(self) -> str:
        """What tables call it: `T = 1`, `T = 0.7, top 40`."""
        return f"T = {self.temperature:g}" + ("" if self.top_k is None else f", top {self.top_k}")


@final
@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """All that decides the facts and findings of an audit, but for the thresholds of its verdict."""

    model: ModelConfig
    train: tuple[str, ...]
    """Files that the model was trained on."""
    heldout: tuple[str, ...]
    """Files of the same kind that it never saw."""
    tokenizer: str | None = None
    """A tokenizer.json, a folder or a hub name; None: the model's own."""
    field: str | None = None
    """The field of JSON lines, or the column, that holds the text; None: found out."""
    chat_template: str | None = None
    """A Jinja file for conversations; None: the model's own template."""
    bos: bool = False
    """Put the beginning-of-sequence token before each text; templates of conversations have their own."""
    contexts: tuple[int, ...] = (16, 32, 64)
    continuations: tuple[int, ...] = (16, 32)
    offsets_per_document: int = 1
    """Passages at random places of a document, besides its start."""
    sample: int | None = None
    """Documents of each file at random; None: all."""
    samplings: tuple[Sampling, ...] = (Sampling(), Sampling(temperature=0.7, top_k=40))
    """Whose probability to say a continuation is computed."""
    near_similarity: float = 0.9
    """Least similarity of a near-verbatim continuation: 1 - token edit distance / n."""
    batch_size: int | Literal["auto"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.near_similarity <= 1:
            raise ConfigError(f"near_similarity: {self.near_similarity} given; expected more than 0, at most 1")
        for name, value, least in (
            ("offsets_per_document", self.offsets_per_document, 0),
            ("sample", self.sample, 1),
            ("batch_size", None if self.batch_size == "auto" else self.batch_size, 1),
        ):
            if value is not None and value < least:
                raise ConfigError(f"{name}: {value} given; expected {least} or more")
        if not 0 <= self.seed < 2**64:
            raise ConfigError(f"seed: {self.seed} given; expected 0 to 2^64 - 1")
        if len(set(self.samplings)) < len(self.samplings):
            named = ", ".join(sampling.name for sampling in self.samplings)
            raise ConfigError(f"samplings: {named} given; expected each once")
        _ = self.grid

    @property
    def grid(self) -> Grid:
        """The contexts and continuations; ConfigError where they are none."""
        return Grid(contexts=self.contexts, continuations=self.continuations)
