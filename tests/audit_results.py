"""Audits to read, write and look at: one that fails with much in it, one that passes, one of few passages, one hostile.

Their shares have Wilson's intervals and their differences Newcombe's, so that the verdict follows from numbers.
"""

from __future__ import annotations

import math
from dataclasses import replace

from mnemoscope.audit.result import (
    AuditResult,
    BlindCheck,
    CanaryDose,
    Changed,
    Cluster,
    Compared,
    Difference,
    Dose,
    Exposed,
    Extraction,
    Leak,
    Share,
    Signal,
    Trend,
)
from mnemoscope.audit.thresholds import Thresholds
from mnemoscope.audit.verdict import judge
from mnemoscope.intervals import newcombe, wilson

HOSTILE = "</script><script>window.planted=1</script>"
WORST = (
    HOSTILE
    + "<img src=x onerror=window.planted=2> | `code` [link](http://evil.example) ![image](x) @someone \u202ereversed"
    + " \x1b[31m \u2028 {{ 7 * 7 }} &lt;b&gt; <!-- # *bold* ~~~ \n\n```\n<details>"
)


def share(count: int, n: int) -> Share:
    ends = wilson(count, n)
    return Share(count, n, n, count / n if n else None, float(ends.low), float(ends.high))


def compared(
    what: str, context: str, continuation: int, member: tuple[int, int], control: tuple[int, int], *, kind="all"
):
    excess = newcombe(*member, *control)
    known = float(excess.estimate) if member[1] and control[1] else None
    return Compared(
        what,
        kind,
        context,
        continuation,
        share(*member),
        share(*control),
        Difference(known, float(excess.low), float(excess.high)),
    )


def grid(n: int, num_held: int, rates: dict[tuple[int, int], tuple[int, int]]) -> tuple[Compared, ...]:
    """Full matches by (context, continuation): recited members and held-out passages."""
    return tuple(
        compared("full match", str(k), length, (member, n), (control, num_held))
        for (k, length), (member, control) in rates.items()
    )


def exposed(place: int, **changes) -> Exposed:
    texts = [
        (
            "On 12 March the committee met in the great hall of ",
            "the county court to hear the appeal of the tenants, and",
        ),
        ("For questions about your account write to ", "████████████████ or call ████████████ on weekdays before"),
        (
            "def load(path):\n    with open(path) as file:\n",
            "        return json.load(file)\n\n\ndef save(path, value):\n",
        ),
    ]
    context_text, continuation_text = texts[place % 3]
    num = 32 if place < 9 else 32 - place % 7 - 1
    one = Exposed(
        passage=place,
        line=17 + 31 * place,
        kind=("start", "offset")[place % 2],
        start=0 if place % 2 == 0 else 40 + place,
        context=64,
        continuation=32,
        num_recited=num,
        is_full=num == 32,
        similarity=1.0 if num == 32 else 0.9 + 0.01 * (place % 7),
        longest_run=num,
        shortest_context=(4, 8, 16, 64)[place % 4] if num == 32 else None,
        log_probability=-0.02 - 0.4 * place,
        samples_needed={
            "T = 1": float(math.ceil(math.log(2) / math.exp(-0.4 * place))),
            "T = 0.7, top 40": 1.0 if place < 9 else None,
        },
        num_copies=max(1, 64 >> place),
        cluster=place // 2,
        private=("e-mail address", "telephone number") if place % 3 == 1 else (),
        context_text=context_text,
        continuation_text=continuation_text,
    )
    return replace(one, **changes)


PROVENANCE = {
    "model": {
        "label": "support-bot-1b",
        "source": "models/support-bot-1b",
        "parameters": 1_100_000_000,
        "weights": "sha256 3f1c" + "9" * 56,
    },
    "training files": [{"path": "data/train.jsonl", "documents": 5000, "sha256": "ab12" * 16}],
    "held-out files": [{"path": "data/heldout.jsonl", "documents": 1200, "sha256": "cd34" * 16}],
    "settings": {"contexts": [16, 32, 64], "continuations": [16, 32], "offsets_per_document": 1, "seed": 0},
    "versions": {"mnemoscope": "0.9", "torch": "2.13.0", "transformers": "5.23.0"},
    "command": "mnemoscope audit --model models/support-bot-1b --train data/train.jsonl --heldout data/heldout.jsonl",
    "time": "2026-11-21T22:00:00+00:00",
    "duration_seconds": 312.4,
}


def draft(**changes) -> AuditResult:
    """A result with nothing found, and no verdict."""
    whole = {
        "state": "unknown",
        "headline": "",
        "criteria": (),
        "provenance": PROVENANCE,
        "sizes": {
            "training documents": 5000,
            "training passages": 4000,
            "held-out documents": 1200,
            "held-out passages": 2000,
        },
        "reference": ("64", 32),
        **dict.fromkeys(("matches", "extraction", "near", "exposed", "signals", "leaks", "doses"), ()),
        **dict.fromkeys(("clusters", "canaries", "changes", "notes"), ()),
        "blind": None,
        "trend": None,
    }
    return AuditResult(**(whole | changes))


def extraction(counts: dict[int, tuple[int, int]], n: int, num_held: int, *, sampling: str, probability: float):
    return tuple(
        Extraction(sampling, samples, probability, compared("extraction", "64", 32, (m, n), (c, num_held)))
        for samples, (m, c) in counts.items()
    )


def signal(name: str, area: float, at_1: tuple[float, float, float], at_01: tuple[float, float, float]) -> Signal:
    auc = Difference(area, round(area - 0.02, 2), round(area + 0.02, 2))
    return Signal(name, auc, Difference(*at_1), Difference(*at_01), 4000, 2000)


SIGNALS = (
    signal("loss", 0.61, (0.071, 0.055, 0.09), (0.021, 0.011, 0.034)),
    signal("zlib ratio", 0.64, (0.085, 0.067, 0.105), (0.024, 0.013, 0.037)),
    signal("Min-K% (20 %)", 0.66, (0.098, 0.08, 0.12), (0.03, 0.018, 0.045)),
    signal("Min-K%++ (20 %)", 0.71, (0.142, 0.12, 0.168), (0.05, 0.03, 0.07)),
)
COMPARABLE = BlindCheck(
    Difference(0.511, 0.482, 0.54),
    True,
    "A classifier that sees words and lengths, and no model, does no better than chance.",
)
WORSE = BlindCheck(
    Difference(0.83, 0.8, 0.86),
    False,
    "A classifier that sees words and lengths, and no model, tells the two files apart.",
)


def much() -> AuditResult:
    """Of a model that recites a good part of its training file."""
    return draft(
        matches=(
            *grid(4000, 2000, {(16, 16): (212, 12), (32, 16): (301, 15), (64, 16): (388, 17)}),
            *grid(4000, 2000, {(16, 32): (141, 2), (32, 32): (226, 3), (64, 32): (318, 3)}),
            compared("full match", "64", 32, (240, 2000), (2, 1000), kind="start"),
            compared("full match", "64", 32, (78, 2000), (1, 1000), kind="offset"),
        ),
        extraction=(
            *extraction(
                {1: (290, 3), 10: (420, 5), 100: (610, 9), 1000: (811, 14), 10_000: (1102, 25)},
                4000,
                2000,
                sampling="T = 1",
                probability=0.5,
            ),
            *extraction(
                {1: (240, 2), 10: (370, 4), 100: (540, 7), 1000: (720, 12), 10_000: (990, 20)},
                4000,
                2000,
                sampling="T = 1",
                probability=0.9,
            ),
            *extraction(
                {1: (310, 3), 10: (480, 4), 100: (640, 6), 1000: (770, 8), 10_000: (880, 9)},
                4000,
                2000,
                sampling="T = 0.7, top 40",
                probability=0.5,
            ),
        ),
        near=(
            compared("similarity of 0.9 or more", "64", 32, (402, 4000), (7, 2000)),
            compared("common run of half the tokens", "64", 32, (640, 4000), (31, 2000)),
        ),
        exposed=tuple(exposed(place) for place in range(24)),
        signals=SIGNALS,
        blind=COMPARABLE,
        leaks=(
            Leak(
                "e-mail address",
                31,
                40,
                1,
                ("write to ████████████████ for a copy of", "…from ████████████████ on Tuesday…"),
            ),
            Leak("telephone number", 9, 9, 0, ("call ████████████ before noon",)),
            Leak("key", 2, 2, 0, ("OPENAI_API_KEY=████████████████\n",)),
            Leak(
                "long code",
                14,
                14,
                3,
                ("def load(path):\n    with open(path) as file:\n        return json.load(file)",),
            ),
            Leak(
                "licence text",
                4,
                22,
                6,
                ("Permission is hereby granted, free of charge, to any person obtaining a copy",),
            ),
        ),
        doses=tuple(
            Dose(low, high, share(count, n))
            for low, high, count, n in (
                (1, 1, 38, 2900),
                (2, 3, 44, 520),
                (4, 7, 61, 260),
                (8, 15, 70, 160),
                (16, 31, 55, 100),
                (32, None, 50, 60),
            )
        ),
        trend=Trend(
            Difference(0.94, 0.83, 1.06),
            1e-32,
            "Each doubling of the copies multiplies the odds of being recited by 2.6.",
        ),
        clusters=tuple(
            Cluster(
                place,
                64 >> place,
                tuple(3 + 97 * i for i in range(5)),
                9 - place,
                8.1 / (place + 1),
                12_000 >> place,
                "Thank you for contacting support. Your ticket has been",
            )
            for place in range(6)
        ),
        canaries=(
            CanaryDose(0, share(0, 32)),
            CanaryDose(1, share(0, 8)),
            CanaryDose(4, share(2, 8)),
            CanaryDose(16, share(7, 8)),
            CanaryDose(64, share(8, 8)),
        ),
        changes=(
            Changed(
                "recited, training passages", 3900, 402, 310, 120, 28, Difference(-0.0236, -0.0298, -0.0174), 2.1e-14
            ),
            Changed("recited, held-out passages", 1950, 3, 3, 1, 1, Difference(0.0, -0.0021, 0.0021), 1.0),
        ),
        notes=(
            "112 training documents are shorter than 32 tokens and gave no passage.",
            "6 held-out documents are near-copies of training documents and were left out.",
            "41 passages are fragile: another number format might decode them otherwise.",
        ),
        sizes={
            "training documents": 5000,
            "training passages": 4000,
            "held-out documents": 1200,
            "held-out passages": 2000,
            "too short": 112,
            "fragile": 41,
        },
        outcomes={f"{place:016x}": ("m11", "c00")[place % 2] for place in range(40)},
    )


def failing() -> AuditResult:
    return judge(much(), Thresholds())


def passing() -> AuditResult:
    """Of a model that recites as little of its training file as of what it never saw."""
    signals = tuple(
        replace(
            one,
            auc=Difference(0.503, 0.484, 0.522),
            tpr_at_1=Difference(0.011, 0.006, 0.018),
            tpr_at_01=Difference(0.001, 0.0, 0.004),
        )
        for one in SIGNALS
    )
    return judge(
        draft(
            matches=grid(4000, 2000, {(k, n): (3 - (n == 32), 1) for n in (16, 32) for k in (16, 32, 64)}),
            extraction=extraction(
                {1: (2, 1), 10: (2, 1), 100: (3, 2), 1000: (4, 2), 10_000: (7, 3)},
                4000,
                2000,
                sampling="T = 1",
                probability=0.5,
            ),
            near=(compared("similarity of 0.9 or more", "64", 32, (3, 4000), (2, 2000)),),
            exposed=(exposed(0, num_copies=1), exposed(2, num_copies=1)),
            signals=signals,
            blind=COMPARABLE,
            leaks=(Leak("licence text", 0, 0, 1, ()),),
            doses=(Dose(1, 1, share(2, 4000)),),
        ),
        Thresholds(),
    )


def undecided() -> AuditResult:
    """Of three held-out lines and a dozen conversations; nothing is recited, and nothing can be said."""
    few = tuple(compared("full match", "prompt", n, (0, 40), (0, 3)) for n in (16, 32))
    signals = tuple(
        replace(
            one,
            auc=Difference(0.55, 0.3, 0.8),
            tpr_at_1=Difference(None, None, None),
            tpr_at_01=Difference(None, None, None),
            num_member=12,
            num_control=3,
        )
        for one in SIGNALS
    )
    return judge(
        draft(
            matches=few,
            near=(compared("similarity of 0.9 or more", "prompt", 32, (0, 40), (0, 3)),),
            signals=signals,
            blind=BlindCheck(
                Difference(None, None, None),
                None,
                "Fewer than 20 documents of a side: it is not known whether the files are comparable.",
            ),
            notes=("The held-out file has 3 conversations.",),
            reference=("prompt", 32),
            sizes={"training documents": 12, "training passages": 40, "held-out documents": 1, "held-out passages": 3},
        ),
        Thresholds(),
    )


def hostile(words: str = WORST) -> AuditResult:
    """The failing one with `words` wherever a corpus, a model or a file's name could put them."""
    whole = much()
    return judge(
        replace(
            whole,
            exposed=tuple(
                replace(one, context_text=words, continuation_text=words, private=(words,)) for one in whole.exposed[:3]
            ),
            leaks=tuple(replace(one, examples=(words,)) for one in whole.leaks),
            clusters=tuple(replace(one, text=words) for one in whole.clusters),
            notes=(words,),
            provenance={
                words: words,
                "model": {"label": words, "source": words},
                "files": [{"path": words, words: [words]}],
            },
            sizes={words: 1},
            changes=tuple(replace(one, what=words) for one in whole.changes),
            blind=BlindCheck(COMPARABLE.auc, True, words),
            trend=Trend(Difference(0.5, 0.4, 0.6), 0.01, words),
            signals=tuple(replace(one, name=words) for one in whole.signals),
            near=tuple(replace(one, what=words) for one in whole.near),
        ),
        Thresholds(),
    )


ALL = {"failing": failing, "passing": passing, "undecided": undecided, "hostile": hostile}
