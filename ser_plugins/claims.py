"""Claims of a plan, that one system is better than another: made before any result is seen, and judged together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ser_plugins.errors import OptionError
from ser_plugins.significance import Comparison, Result, holm


@dataclass(frozen=True)
class Claim:
    """What becomes of the claim that one system is better than another."""

    names: tuple[str, str]  # the better, the worse
    values: tuple[float, float] | None  # the metric of each; None where one has no complete run
    result: Result | None  # of the bootstrap, better minus worse; ``holm`` is adjusted over the claims
    verdict: str  # supported, contradicted, undecided, or not tested


def read_claims(value: Any) -> list[tuple[str, str]]:
    """Claims as a file has them, for `judge`.

    Raises
    ------
    OptionError
        They are no list of pairs of two systems, or a pair comes twice, in either order.

    Example
    -------
    >>> read_claims([["mp-3", "baseline-96"]])
    [('mp-3', 'baseline-96')]
    """
    if not isinstance(value, list):
        raise OptionError(f"claims are a list of pairs, as [[mp-3, baseline-96]], not {value!r:.80}")
    known = set()
    for pair in value:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair)):
            raise OptionError("a claim is a pair of systems, the better first, as [mp-3, baseline-96], not "
                              f"{pair!r:.80}")
        if pair[0] == pair[1] or frozenset(pair) in known:
            raise OptionError(f"the claim {pair}: two different systems, and each pair once")
        known.add(frozenset(pair))
    return [(better, worse) for better, worse in value]


def judge(claims: Sequence[tuple[str, str]], pairs: Sequence[Comparison], level: float = 0.05) -> list[Claim]:
    """Which claims hold, by the paired bootstrap with Holm's correction over all claims, those that lack a test too.

    So a plan that is not finished does not decide more easily than the whole would. The intervals are those of one
    comparison each.

    Arguments
    ---------
    claims : Sequence[tuple[str, str]]
        Names of systems, the better first. Make them before you see the results.
    pairs : Sequence[Comparison]
        Of `compare_all`.
    level : float
        At most this p decides.
    """
    known = {frozenset(pair.names): pair for pair in pairs}
    found: list[tuple[tuple[str, str], Comparison | None, Result | None]] = []
    for better, worse in claims:
        pair = known.get(frozenset((better, worse)))
        result = pair.bootstrap if pair is not None else None
        if pair is not None and pair.names != (better, worse):
            pair = replace(pair, values=pair.values[::-1])
            if result is not None:
                low, high = (None if end is None else -end for end in (result.high, result.low))
                result = replace(result, value=-result.value, low=low, high=high)
        found.append(((better, worse), pair, result))
    adjusted = holm([1.0 if result is None or result.p is None else result.p for *_, result in found])
    judged = []
    for (names, pair, result), p in zip(found, adjusted, strict=True):
        verdict = "not tested"
        if result is not None:
            result = replace(result, holm=p)
            verdict = "undecided" if p > level else "supported" if result.value > 0 else "contradicted"
        judged.append(Claim(names, None if pair is None else pair.values, result, verdict))
    return judged
