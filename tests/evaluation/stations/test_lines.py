"""Fast reading of plain lines against the reader of all other lines."""

import numpy as np
import pandas as pd
import pytest
from deepprofile.evaluation.stations.lines import plain_records
from hypothesis import given, settings
from hypothesis import strategies as st

COLUMNS = (0, 1, 2, 3)


def read(text, skipped=0, columns=COLUMNS):
    return plain_records(text.encode("latin-1"), skipped, columns, 2)


@settings(max_examples=60, deadline=None)
@given(
    days=st.lists(st.dates(min_value=pd.Timestamp("1950-01-01").date()), min_size=1, max_size=12),
    digits=st.integers(0, 6),
    seed=st.integers(0, 999),
)
def test_records_are_those_that_were_written(days, digits, seed):
    rng = np.random.default_rng(seed)
    values = rng.uniform(-10_000.0, 1.0, len(days)).round(digits)
    clocks = [f"{rng.integers(24):02d}:{rng.integers(60):02d}" for _ in days]
    flags = rng.choice(["G", "D01,D03", "C03", "M"], len(days)).tolist()
    gaps = rng.choice([" ", "\t", "   "], (len(days), 3)).tolist()
    lines = [
        f"{day:%Y/%m/%d}{a}{clock}{b}{value:.{digits}f}{c}{flag} M\n"
        for day, clock, value, flag, (a, b, c) in zip(days, clocks, values, flags, gaps, strict=True)
    ]
    found = read("".join(lines))
    expected = np.array([f"{day}T{clock}" for day, clock in zip(days, clocks, strict=True)], "datetime64[m]")
    np.testing.assert_array_equal(found.minutes.astype("datetime64[m]"), expected)
    np.testing.assert_array_equal(found.values, [float(f"{value:.{digits}f}") for value in values])
    assert [found.names[k] for k in found.flags] == flags


def test_headers_blank_lines_and_the_words_of_the_other_layout():
    found = read("a header that is skipped\n\n2012/05/01 00:00 .25 G\n   \n2012/5/1 06:00 +1. U O M\n", 1)
    assert (found.minutes - found.minutes[0]).tolist() == [0, 360]
    assert found.values.tolist() == [0.25, 1.0]
    line = "2012/05/01 00:00 2012/05/01 00:10 N N Fen 47.5 11.25 640 0.05 0.05 0.31 G M\n"
    ceop = read(line, 0, (2, 3, 12, 13))
    assert (ceop.minutes[0] % 1440, ceop.values[0], ceop.names) == (10, 0.31, ["G"])


@pytest.mark.parametrize(
    "line",
    [
        "2012/02/30 00:00 0.25 G M",
        "2013/02/29 00:00 0.25 G M",
        "2012/13/01 00:00 0.25 G M",
        "2012-05-01 00:00 0.25 G M",
        "2012/05/01 24:00 0.25 G M",
        "2012/05/01 0:00 0.25 G M",
        "2012/05/01 00:00 NaN G M",
        "2012/05/01 00:00 2.5e-1 G M",
        "2012/05/01 00:00 0.2.5 G M",
        "2012/05/01 00:00 - G M",
        "2012/05/01 00:00 0.25",
        "2012/05/01 00:00 0.25 G M M M",
        "2012/05/01",
    ],
)
def test_what_is_not_plain_is_left_to_the_other_reader(line):
    good = "2012/05/01 00:00 0.25 G M\n"
    assert read(good) is not None
    assert read(f"{good}{line}\n{good}") is None
    assert read(good + good.strip()) is None
