"""SIMULATED: a plan of the study at its real size, from what one small model does on this machine.

A network of the shape of Pythia-70M with random weights is measured as `mnemoscope plan` measures, over random rows of
2049 tokens at the study's own grid. The seven models of the study follow from it by these assumptions:

- a token forward costs in proportion to the parameters without the input embedding, loading in proportion to all;
- a device is `--speedup` times as fast as this machine, at every size of model;
- random weights memorize nothing, so every sequence is decoded from every context: the most that mode graded costs;
- the pilot's full matches are the published ones at k = 32 and n = 32, as 10,000 rows have them on average.

    python benchmarks/pile_plan.py --seconds 60 --speedup 1 2000
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from mnemoscope.config import CorpusConfig, CountsConfig, ModelConfig, StudyConfig, TracesConfig
from mnemoscope.engines import Once
from mnemoscope.pilot import measure_study
from mnemoscope.planning import study_size
from mnemoscope.proposal import make_plan
from mnemoscope.report.layout import console_width, print_table
from mnemoscope.report.plan_table import hours_tables, measured_tables, proposal_words, room_words, sizes_tables
from mnemoscope.study_plan import CellCount, ModelPilot, Plan, Rate, Wishes
from mnemoscope.texts import open_texts

PILE = 146_432_000
ROW_TOKENS = 2049
PILOT_ROWS = 10_000


class Pythia(NamedTuple):
    """A model of the study."""

    num_parameters: int
    num_non_embedding: int
    width: int
    num_full: int
    """Published: of 146,432,000 sequences memorized at k = 32, n = 32."""

    @property
    def cost(self) -> float:
        """Parameters that a token forward takes: all but the input embedding, which is as large as the output's."""
        return (self.num_parameters + self.num_non_embedding) / 2


PYTHIA = {
    "70M": Pythia(70_426_624, 18_915_328, 512, 411_428),
    "160M": Pythia(162_322_944, 85_056_000, 768, 583_993),
    "410M": Pythia(405_334_016, 302_311_424, 1024, 802_637),
    "1B": Pythia(1_011_781_632, 805_736_448, 2048, 1_019_401),
    "2.8B": Pythia(2_775_208_960, 2_517_652_480, 2560, 1_297_351),
    "6.9B": Pythia(6_857_302_016, 6_444_163_072, 4096, 1_584_084),
    "12B": Pythia(11_846_072_320, 11_327_027_200, 5120, 1_732_833),
}


def main() -> None:
    """Measure, extrapolate, print; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--speedup", type=float, nargs="+", default=[1.0, 2000.0])
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--hours", type=float, default=168.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study = write_study(Path(folder))
        pilot = measure_study(
            study,
            Once(partial(open_texts, study)),
            seconds=options.seconds,
            tell=lambda what, share: print(f"{100 * share:3.0f} % {what}", file=sys.stderr),
        )
    size = study_size(study, selected={"member": PILE}, available={"member": PILE})
    figures = {}
    for speedup in options.speedup:
        models = [extrapolate(pilot.models[0], label, speedup=speedup) for label in PYTHIA]
        wishes = Wishes(devices=tuple(options.devices), within=0.001, level=0.95, hours=options.hours)
        plan = make_plan(models, size, wishes)
        show(plan, speedup)
        figures[f"speedup_{speedup:g}"] = {f"hours_{each.devices}": round(each.total, 1) for each in plan.hours}
    small = pilot.models[0]
    figures["measured"] = {mode: round(rate.per_second, 3) for mode, rate in small.rates.items()}
    print(json.dumps(figures))


def write_study(folder: Path) -> StudyConfig:
    """A model of the shape of Pythia-70M, and random rows."""
    torch.manual_seed(0)
    shape = GPTNeoXConfig(
        vocab_size=50_304,
        hidden_size=512,
        num_hidden_layers=6,
        num_attention_heads=8,
        intermediate_size=2048,
        max_position_embeddings=2048,
    )
    GPTNeoXForCausalLM(shape).save_pretrained(folder / "random-70M")
    rows = np.random.default_rng(0).integers(0, 50_254, (4096, ROW_TOKENS), dtype=np.uint16)
    rows.tofile(folder / "document.bin")
    return StudyConfig(
        models=(ModelConfig(source=str(folder / "random-70M")),),
        corpus=CorpusConfig(path=str(folder / "document.bin")),
        contexts=(32, 48, 64, 96),
        continuations=(16, 32, 48, 64),
        traces=TracesConfig(per_stratum=1250, contexts=(32,), continuation=16),
        counts=CountsConfig(),
    )


def extrapolate(small: ModelPilot, label: str, *, speedup: float) -> ModelPilot:
    """What a model of the study would do on a device so many times as fast as this machine."""
    model, own = PYTHIA[label], PYTHIA["70M"]
    slower = model.cost / own.cost / speedup
    grown = model.num_parameters / own.num_parameters
    found = CellCount(
        group="member",
        context=32,
        continuation=32,
        num_full=round(model.num_full / PILE * PILOT_ROWS),
        num_sequences=PILOT_ROWS,
        design_effect=1.0,
    )
    return replace(
        small,
        label=label,
        num_parameters=model.num_parameters,
        weight_bytes=round(small.weight_bytes * grown),
        peak_bytes=small.peak_bytes + round(small.weight_bytes * (grown - 1)),
        width=model.width,
        load_seconds=small.load_seconds * grown,
        rates={mode: _slow(rate, slower) for mode, rate in small.rates.items()},
        traced=None if small.traced is None else _slow(small.traced, slower),
        cells=(found,),
    )


def _slow(rate: Rate, factor: float) -> Rate:
    return replace(
        rate, per_second=rate.per_second / factor, slowest=rate.slowest / factor, fastest=rate.fastest / factor
    )


def show(plan: Plan, speedup: float) -> None:
    """The plan's tables and words."""
    console = Console()
    console.print(f"\nSIMULATED: devices {speedup:g} x as fast as this machine, whatever the model", highlight=False)
    for tables in (measured_tables, hours_tables, sizes_tables):
        for table in tables(plan, width=console_width(console)):
            print_table(table, console)
            console.print()
    for line in (*room_words(plan), *proposal_words(plan)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
