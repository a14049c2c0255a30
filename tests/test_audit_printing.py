"""What a terminal and a pipe show of an audit."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from audit_results import ALL, draft, share
from mnemoscope.audit.printing import print_audit
from mnemoscope.audit.result import CanaryDose, Difference, Dose
from mnemoscope.audit.thresholds import Thresholds
from mnemoscope.audit.verdict import judge
from mnemoscope.audit.words import points, points_cell, share_words


def printed(result, *, width: int | None = None) -> list[str]:
    """The lines in a terminal of a width, or in a pipe."""
    out = io.StringIO()
    terminal = width is not None
    print_audit(result, Path("audit"), Console(file=out, width=width, force_terminal=terminal, color_system=None))
    return out.getvalue().splitlines()


def test_text_stands_left_below_its_header():
    """Names of criteria, and what is compared, begin where their headers do."""
    lines = printed(ALL["failing"]())
    for header, row in (("criterion", "max_recited_excess"), ("what", "full match"), ("planted", "never")):
        assert any(line.startswith(f"{header}  ") for line in lines)
        assert any(line.startswith(row) for line in lines)


def test_what_does_not_decide_is_told():
    """Of a verdict by leaks alone, two criteria decide, and the others say that they do not."""
    lines = printed(judge(ALL["failing"](), Thresholds(), fail_on=["max_leaks"]))
    criteria = [line for line in lines if line.startswith(("max_", "min_"))]
    deciding = {line.split()[0] for line in criteria if not line.endswith("It does not decide here.")}
    assert deciding == {"max_leaks", "min_passages"}
    assert len(criteria) == 7


def test_doses_without_passages_are_no_rows():
    """One dose of three has passages: one row, and no share that is unknown."""
    doses = (Dose(1, 1, share(3, 40)), Dose(2, 3, share(0, 0)), Dose(4, None, share(0, 0)))
    lines = printed(draft(doses=doses))
    start = lines.index("Recited by copies in the training file")
    assert [line.split() for line in lines[start + 1 :][:3]] == [
        ["copies", "recited", "share"],
        ["1", "3", "of", "40", "8", "%"],
        [],
    ]
    assert not any("unknown" in line for line in lines)
    assert "Recited by copies in the training file" not in printed(draft(doses=doses[1:]))


def test_canaries_are_told_in_words():
    """Twins were never planted; once is no `1 times`."""
    doses = tuple(CanaryDose(repeats, share(0, 8)) for repeats in (0, 1, 2, 64))
    lines = printed(draft(canaries=doses))
    start = lines.index("Canaries")
    rows = [line.split()[0] for line in lines[start + 2 : start + 6]]
    assert rows == ["never", "once", "twice", "64"]
    assert lines[start + 2].endswith("the twins")


@pytest.mark.parametrize("name", list(ALL))
@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_a_terminal(name, width):
    """No line of a table is wider than the terminal, and each number stands whole in one."""
    result = ALL[name]()
    lines = printed(result, width=width)
    first, last = lines.index("Criteria"), next(at for at, line in enumerate(lines) if "report.html" in line)
    told = [line for line in lines[first:last] if not line.startswith(("-> ", "note: "))]
    assert max(map(len, told)) <= width
    for row in result.matches:
        if row.kind == "all":
            assert any(f"{row.member.count:,} of {row.member.n:,}" in line for line in told)


@pytest.mark.parametrize(
    ("measured", "cell"),
    [
        (Difference(0.078, 0.07, 0.087), "7.8 (7.0 to 8.7)"),
        (Difference(-0.0001, -0.03, 0.03), "0.0 (-3.0 to 3.0)"),
        (Difference(-0.0001, -0.06, 0.06), "0 (-6 to 6)"),
        (Difference(None, None, None), "not known"),
        (Difference(1.0, 0.76, 1.0), "100 (76 to 100)"),
    ],
)
def test_points_are_told_to_the_digits_that_hold(measured, cell):
    """Two digits of the interval's width; zero has no sign, and what is unknown no unit."""
    assert points_cell(measured) == cell
    assert points(measured) == points_cell(measured).replace(" (", " percentage points (")
    assert "-0" not in points_cell(Difference(-0.00001, -0.00002, 0.1))
    assert share_words(Difference(None, None, None)) == "not known"
