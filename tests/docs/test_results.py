"""The tables of the README are those that were measured last."""

from benchmarks.results import README, in_readme, read


def test_the_readme_has_the_tables_of_the_last_measurements():
    text = README.read_text()
    assert in_readme(text) == text


def test_every_table_says_which_commit_and_machine_it_was_measured_on():
    kept = read()
    assert {"inversion", "collocation", "stages", "chain", "ingest", "plan", "memory"} <= kept.keys()
    for one in kept.values():
        assert one["commit"]
        assert one["machine"]
        assert all(len(row) == len(one["columns"]) for row in one["rows"])
