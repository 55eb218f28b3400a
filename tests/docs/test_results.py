"""The tables of the documents are those that were measured last."""

import pytest

from benchmarks.results import DOCUMENTS, read, with_tables


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_have_the_tables_of_the_last_measurements(document):
    text = document.read_text()
    assert "<!-- results: " in text
    assert with_tables(text) == text


def test_every_table_says_which_commit_and_machine_it_was_measured_on():
    kept = read()
    assert {"inversion", "collocation", "stages", "chain", "ingest", "remote", "readers", "plan", "memory"} <= kept.keys()
    for one in kept.values():
        assert one["commit"]
        assert one["machine"]
        assert all(len(row) == len(one["columns"]) for row in one["rows"])
