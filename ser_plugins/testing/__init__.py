"""The contracts as checks, for this package's tests and a stranger's; modelled on scikit-learn's ``check_estimator``.

A plugin's own tests hold one line, and the command ``ser check NAME`` does the same::

    from ser_plugins.testing import check_head

    def test_contract():
        check_head(Attention)

Every rule is a function of these modules whose docstring's first line states it. A plugin that breaks one is refused
with a `PluginError` that quotes the rule and says what was found. Inputs are random but the same on every call, and
the state of torch's random generator is left as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ser_plugins import registry
from ser_plugins.contracts import Corpus, Encoder, FeatureExtractor, Head
from ser_plugins.testing.corpora import CORPUS_RULES, CorpusCase
from ser_plugins.testing.encoders import ENCODER_RULES, EncoderCase
from ser_plugins.testing.features import FEATURE_RULES, FeaturesCase
from ser_plugins.testing.heads import HEAD_RULES, HeadCase
from ser_plugins.testing.rules import Rule, apply_rules

RULES: dict[str, tuple[Rule, ...]] = {
    "corpora": CORPUS_RULES, "features": FEATURE_RULES, "encoders": ENCODER_RULES, "heads": HEAD_RULES,
}


def check_head(plugin: type[Head] | str, options: Mapping[str, Any] | None = None) -> None:
    """Checks a head against its contract.

    Arguments
    ---------
    plugin : type | str
        The class, or the name under which it is registered.
    options : Mapping[str, Any]
        Arguments of the constructor that differ from the defaults.

    Raises
    ------
    PluginError
        The rule that is broken, and what was found.

    Example
    -------
    >>> check_head("mp", {"layer": 1})
    """
    apply_rules("heads", plugin, HEAD_RULES, lambda found: HeadCase(found, options))


def check_features(plugin: type[FeatureExtractor] | str, options: Mapping[str, Any] | None = None) -> None:
    """Checks a feature extractor against its contract; arguments and errors as `check_head`."""
    apply_rules("features", plugin, FEATURE_RULES, lambda found: FeaturesCase(found, options))


def check_encoder(plugin: Encoder | type[Encoder] | str) -> None:
    """Checks an encoder against its contract; errors as `check_head`.

    Arguments
    ---------
    plugin : Encoder | type | str
        An encoder, which is left as it is; or a class or registered name, whose ``from_pretrained()`` is checked.
    """
    apply_rules("encoders", plugin, ENCODER_RULES, EncoderCase)


def check_corpus(plugin: type[Corpus] | str, options: Mapping[str, Any] | None = None) -> None:
    """Checks a corpus reader against its contract; arguments and errors as `check_head`."""
    apply_rules("corpora", plugin, CORPUS_RULES, lambda found: CorpusCase(found, options))


def check(group: str, name: str) -> None:
    """Checks a registered plugin with the group's check.

    Example
    -------
    >>> check("heads", "progressive")
    """
    registry.find(group, name)  # refuses an unknown group or name before anything is imported
    checks: dict[str, Callable[[Any], None]] = {
        "corpora": check_corpus, "features": check_features, "encoders": check_encoder, "heads": check_head,
    }
    checks[group](name)
