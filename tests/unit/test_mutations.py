"""The list of guards is that of the code as it is."""

from __future__ import annotations

import pytest

from tests.mutations import ROOT, read_mutations


@pytest.mark.parametrize("mutation", read_mutations(), ids=lambda mutation: mutation.guard)
def test_a_guard_is_where_its_mutation_looks_for_it(mutation):
    assert (ROOT / mutation.file).read_text().count(mutation.before) == 1
