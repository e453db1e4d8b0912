"""Claims of a plan: as many as were made are corrected for, and a pair of the other order is turned."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ser_plugins.claims import judge
from ser_plugins.significance import Comparison, Result


def pair(first, second, value, p):
    bootstrap = None if p is None else Result(value, 10, p, value - 0.1, value + 0.1)
    return Comparison((first, second), (0.5 + value, 0.5), bootstrap, None, None, Result(0.0, 4, 1.0))


def test_a_claim_of_the_other_order_is_turned():
    claim, = judge([("b", "a")], [pair("a", "b", 0.2, 0.01)])
    assert (claim.names, claim.values, claim.verdict) == (("b", "a"), (0.5, 0.7), "contradicted")
    assert (claim.result.value, claim.result.low, claim.result.high) == pytest.approx((-0.2, -0.3, -0.1))


def test_a_claim_without_an_interval_is_turned_too():
    told = Comparison(("a", "b"), (0.7, 0.5), Result(0.2, 3, 0.25), None, None, Result(0, 4, 1))
    claim, = judge([("b", "a")], [told])
    assert (claim.result.value, claim.result.low, claim.result.high) == (-0.2, None, None)


def test_claims_without_a_test_count_in_the_correction():
    told = [("a", "b"), ("a", "c"), ("a", "d")]
    found = judge(told, [pair("a", "b", 0.2, 0.02), pair("a", "c", 0.2, None)])
    assert [claim.verdict for claim in found] == ["undecided", "not tested", "not tested"]
    assert found[0].result.holm == pytest.approx(0.06)
    assert judge(told[:2], [pair("a", "b", 0.2, 0.02)])[0].verdict == "supported"


def test_nothing_heavy_is_imported():
    code = "import sys, ser_plugins.claims; sys.exit(' '.join({'torch', 'speechbrain'} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
