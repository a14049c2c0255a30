"""The verb `canaries`: plants sequences that nobody can guess into a training file, before a model is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mnemoscope.errors import ConfigError

if TYPE_CHECKING:
    from mnemoscope.audit.files.planting import Planted


def canaries(
    train: str,
    *,
    out: Path,
    key: Path | None = None,
    field: str | None = None,
    doses: str = "1,4,16,64",
    per_dose: int = 8,
    twins: int = 32,
    words: int | None = None,
    seed: int | None = None,
) -> None:
    """Plant sequences that nobody can guess into a training file; `audit --canaries` finds them after training.

    Parameters
    ----------
    train
        The training file, in JSON lines: text, conversations, prompts with completions, or instructions.
    out
        The copy with the canaries in it, on which the model is to be trained.
    key
        What was planted, for `audit --canaries`; keep it out of every training file (default: canaries.json beside
        --out).
    field
        The field that holds the text, where it has none of the usual names.
    doses
        How often canaries are planted: numbers of copies, separated by commas.
    per_dose
        Canaries for each number of copies.
    twins
        Canaries that are drawn in the same way and planted nowhere: none of them may be found.
    words
        Length of a canary; each word is one token or more (default: enough for the audit's own grid).
    seed
        Plants the same again; without one the canaries are such as nobody has seen.
    """
    import secrets

    from mnemoscope.audit.files.canaries import NUM_WORDS
    from mnemoscope.audit.files.planting import plant

    planted = plant(
        train,
        out,
        key=key,
        # A fixed seed as the default would make the same canaries for everybody, and the web would have them soon.
        seed=secrets.randbits(63) if seed is None else seed,
        field=field,
        doses=_numbers("--doses", doses),
        per_dose=per_dose,
        num_twins=twins,
        num_words=NUM_WORDS if words is None else words,
    )
    _print(planted)


def _print(planted: Planted) -> None:
    from rich.console import Console

    console = Console()
    told = planted.canaries
    kinds = len(told.canaries) - sum(canary.repeats == 0 for canary in told.canaries)
    share = 100 * told.num_planted / told.num_lines
    for line in (
        f"planted   {planted.planted}: {told.num_lines:,} lines, of which {told.num_planted:,} ({share:.3g} %) are "
        f"copies of {kinds} canaries",
        f"canaries  {planted.key}: what they are, with {len(told.canaries) - kinds} twins that are planted nowhere",
        f"Train on the first, then: mnemoscope audit --train {planted.planted} --canaries {planted.key} ...",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace(" ", ",").split(",") if part)
    except ValueError:
        raise ConfigError(f"{option}: {text!r} given; expected whole numbers, separated by commas") from None
