"""How much a run in half precision differs from float32, on disk: a sample of its sequences, scored in both.

flips/MODEL/sample.parquet         a row per sampled sequence and context: the run's facts, float32's beside them
flips/MODEL/sample.counts.parquet  what differs, by group, context and continuation (see `analyses.flip_counts`)
flips/MODEL/sample.json            the record, written last
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mnemoscope.analyses.flip_counts import FlipCount
from mnemoscope.derived import Derived, key_of
from mnemoscope.errors import StoreError
from mnemoscope.identity import ModelIdentity
from mnemoscope.store import GROUPS, Run, Study
from mnemoscope.version import __version__

FORMAT: Final = 1
SEED: Final = 0
"""Of the draw."""


class FlipRate(NamedTuple):
    """What is known of a run's difference from float32."""

    label: str
    dtype: str
    near_margin: float
    """Logits below which a float32 margin counts as near."""
    reference_device: str
    """Where float32 was computed."""
    counts: tuple[FlipCount, ...]

    @property
    def longest(self) -> FlipCount | None:
        """Of members, at the longest lengths; None where none was long enough."""
        return max(
            (each for each in self.counts if each.group == GROUPS[0]),
            key=lambda each: (each.context, each.continuation),
            default=None,
        )


def is_half(run: Run) -> bool:
    """Whether a run's numbers are others than float32's."""
    return isinstance(run.identity.model, ModelIdentity) and run.identity.model.dtype != "float32"


def flips_of(folder: Path, label: str) -> Derived:
    """Where a run's sample lies."""
    return Derived(folder / "flips" / label, "sample")


def has_flips(study: Study, run: Run) -> bool:
    """Whether the run's sample is there and follows from its scores and the study's settings as they are."""
    return flips_of(study.folder, run.label).is_current(flips_key(study, run))


def flips_key(study: Study, run: Run) -> str:
    """What a sample follows from: which sequences it is drawn from, the run's fingerprint says."""
    return key_of(run.fingerprint, study.config.flip_sample, SEED, FORMAT, __version__)


def read_flips(study: Study, run: Run) -> FlipRate | None:
    """What a run's sample says; None where it has none, or one of other facts."""
    if not is_half(run) or not has_flips(study, run):
        return None
    path = flips_of(study.folder, run.label).path(".counts.parquet")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: damaged ({error}); run the study again to have it redone") from error
    metadata: dict[bytes, bytes] = table.schema.metadata or {}
    counts = tuple(FlipCount(**row) for row in table.to_pylist())
    return FlipRate(
        label=run.label,
        dtype=run.identity.weights.dtype,
        near_margin=float(metadata[b"near_margin_logits"]),
        reference_device=metadata[b"float32_device"].decode(),
        counts=counts,
    )


def all_flips(study: Study) -> list[FlipRate]:
    """What is known of each run of the study that is not in float32."""
    found = [read_flips(study, run) for run in study.runs.values()]
    return [rate for rate in found if rate is not None]
