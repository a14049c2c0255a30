"""Facts of made-up studies, and results of every kind, for the tests of the report's words."""

from __future__ import annotations

from dataclasses import replace

from mnemoscope.analyses.embeddings import embeddings
from mnemoscope.analyses.entropy import entropy
from mnemoscope.analyses.factors import factors
from mnemoscope.analyses.frequency import frequency
from mnemoscope.analyses.matches import MatchCounts, MemorizedCount, Stratum, from_bins
from mnemoscope.analyses.prediction import prediction
from mnemoscope.analyses.transitions import transitions
from mnemoscope.report.study_facts import GroupFacts, ModelFacts, StudyFacts
from predicted_samples import study as predicted_study
from test_embeddings import planted
from test_factors import model
from test_transitions import example, pair
from traced_samples import study as traced_study

LONG = (32, 32)


def model_facts(label="small", **changes):
    """A float32 model on a CPU, the last step of its source."""
    facts = ModelFacts(
        label=label,
        source=f"/home/someone/models/{label}",
        revision="step1000",
        training_step=1000,
        num_parameters=2_000_000,
        num_non_embedding_parameters=1_000_000,
        weights_sha256="ab" * 32,
        config_sha256="cd" * 32,
        commit=None,
        architecture="GPTNeoXForCausalLM",
        dtype="float32",
        device="cpu",
        attention="sdpa",
        batch_size=32,
        fingerprint="ef" * 32,
        is_final=True,
    )
    return replace(facts, **changes)


def group_facts(**changes):
    """300 rows of a local file, all scored."""
    facts = GroupFacts(
        corpus="12" * 32,
        selection="34" * 32,
        num_sequences=300,
        num_scored=300,
        num_short=0,
        offset=0,
        seed=None,
        short_rows="error",
        paths=("/home/someone/data/rows.npy",),
        drawn="all",
        sequences=None,
        bos=False,
        tokenizer=None,
    )
    return replace(facts, **changes)


def study_facts(**changes):
    """A complete study of two models with traces, counts, predictions and a control."""
    facts = StudyFacts(
        name="made-up",
        models=(model_facts("small"), model_facts("large", num_non_embedding_parameters=4_000_000)),
        missing_models=(),
        groups={"member": group_facts(), "control": group_facts(num_sequences=200, num_scored=200)},
        contexts=(32,),
        continuations=(16, 32),
        mode="graded",
        traced_contexts=(32,),
        traced_continuation=16,
        path_tokens=16,
        ngrams=(1, 2),
        has_traces=True,
        has_counts=True,
        has_predictions=True,
        is_complete=True,
        versions={"mnemoscope": "0.1.0", "torch": "2.0"},
        platform="Linux",
        python="3.12.1",
        command="mnemoscope study /home/someone/study.toml",
        duration_seconds=134.9,
    )
    return replace(facts, **changes)


def bare_facts(**changes):
    """One model, no control, no traces."""
    bare = {
        "models": (model_facts(),),
        "groups": {"member": group_facts()},
        "traced_contexts": (),
        "traced_continuation": None,
        "path_tokens": None,
        "ngrams": (),
        "has_traces": False,
        "has_counts": False,
        "has_predictions": False,
    }
    return study_facts(**(bare | changes))


def counted(*counts, group="member"):
    """Full matches at k = n = 32: (memorized, of), or (copies, memorized, of) where copies are known."""
    strata = {}
    for count in counts:
        repeats, memorized, total = count if len(count) == 3 else (None, *count)
        (found,) = from_bins([MemorizedCount(*LONG, memorized, total)], group=group).strata.values()
        strata[Stratum(group, repeats, *LONG)] = found
    return MatchCounts(strata)


def beside(member, control):
    """Members and a control of one model."""
    return MatchCounts({**member.strata, **control.strata})


def factors_of(*counts, steps=None, source=None):
    """Factors of models a, b, c ... of growing size; checkpoints of one source where `source` is given."""
    models = {}
    for place, one in enumerate(counts):
        label, size = chr(ord("a") + place), 10**6 if source else 10 ** (6 + place)
        step = steps[place] if steps else None
        models[label] = model(label, one, 2 * size, size, source=source, step=step)
    return factors(models)


def every_result():
    """One result of each kind, small and quick."""
    sample, counts = traced_study(num_rows=1500, per_stratum=120)
    member, control = counted((1, 0, 120), (8, 30, 100), (64, 60, 80)), counted((2, 200), group="control")
    return {
        "factors": factors_of(beside(counted((1, 0, 120), (8, 3, 100), (64, 9, 80)), control), beside(member, control)),
        "transitions": transitions([pair(example())]),
        "frequency": frequency({"tiny": sample}, counts, continuation=16, num_resamples=40),
        "entropy": entropy({"tiny": sample}, counts, continuation=16, num_resamples=40),
        "embeddings": embeddings({"model": planted()}, num_resamples=20),
        "prediction": prediction(predicted_study(num_rows=102, seeds=(0,)), num_resamples=40),
    }


def few_traces():
    """Frequency and entropy of strata that are all too small."""
    traced, counts = traced_study(num_rows=60, per_stratum=5, control=False)
    return {
        name: run({"tiny": traced}, counts, continuation=16)
        for name, run in (("frequency", frequency), ("entropy", entropy))
    }
