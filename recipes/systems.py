"""The systems of a plan, built: what cross_validate.py is to train."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import plan

from ser_plugins import command_line, experiment, folds, protocol, runs
from ser_plugins.claims import read_claims
from ser_plugins.corpora import manifest
from ser_plugins.errors import OptionError, unknown_name
from ser_plugins.models import UNTRAINED, encoder_plugin
from ser_plugins.values import told_value

HERE = Path(__file__).parent
CONTROL = "untrained"  # as the encoder of a plan's entry: the one that all share, with random weights
_NUMBER = re.compile(r"-\d+")  # of a layer or of units, in a system's name
TOLD = ("corpus", "data_folder", "corpus_options", "test_corpus", "test_data_folder", "test_corpus_options", "labels",
        "allow_missing_class", "store_folder")  # keys of the plan that every recipe has
OURS = {"seed": "runs", "test_speaker": "folds", "output_folder": "output_folder"}  # of each run → key of the plan


@dataclass(frozen=True)
class Planned:
    """A system of the plan: the file of its recipe, the command line but for fold and seed, and what is built of it.

    ``options`` are those that its entry of the plan gives it alone; of a control, the encoder is that of its twin.
    """

    recipe: str
    words: tuple[str, ...]
    options: Mapping[str, Any]
    exp: experiment.Experiment
    system: protocol.System


@dataclass(frozen=True)
class Protocol:
    """What is to be run, on one corpus or one pair: the plan's systems, rows of the manifests, folds and units."""

    exp: experiment.Experiment
    root: Path
    systems: Mapping[str, Planned]
    claims: Sequence[tuple[str, str]]
    rows: Sequence[manifest.Row]
    test_rows: Sequence[manifest.Row]
    chosen: Sequence[folds.Fold]
    units: Sequence[runs.Unit]


def planned(exp: experiment.Experiment) -> dict[str, Planned]:
    """Name → system of the plan, built, so that whatever is wrong with one is known before anything runs.

    Raises
    ------
    OptionError
        An entry of the plan is no system, two have one name, or there is none.
    """
    values = exp.values
    found: dict[str, Planned] = {}
    for entry in values["plan"]:
        if not isinstance(entry, Mapping) or "hparams" not in entry:
            raise OptionError(f"{exp.file}: a system of the plan is {{hparams: FILE, key: value, …}}, not {entry}")
        shared = values["encoder"]
        encoder = entry.get("encoder", shared)
        for source in (encoder, shared):
            if not isinstance(source, str):
                raise OptionError(f"{exp.file}: the encoder {source} of {entry} is neither a name nor a folder")
        if encoder == CONTROL:
            if shared.startswith(UNTRAINED) or not hasattr(encoder_plugin(shared)[0], "untrained"):
                print(f"left out: {entry}; encoder {shared} has no twin with random weights")
                continue
            entry = {**entry, "encoder": UNTRAINED + shared}
            encoder = entry["encoder"]
        layers = len(protocol.encoder_of(encoder).layer_dims) if "layer" in entry else 0
        for options in plan.sweep(entry, layers):
            one = _planned(exp, options)
            if one.system.name in found:
                raise OptionError(f"{exp.file}: two systems of the plan are '{one.system.name}': give one of the "
                                  "entries a suffix, as {hparams: mp.yaml, suffix: yin}")
            found[one.system.name] = one
    if not found:
        raise OptionError(f"{exp.file}: the plan has no system")
    for key in values["options"]:
        if not any(word.startswith(f"--{key}=") for one in found.values() for word in one.words):
            print(f"--options: no system of the plan takes {key}")
    return found


def chosen_systems(found: Mapping[str, Planned], values: Mapping[str, Any]) -> dict[str, Planned]:
    """The systems that are asked for.

    Raises
    ------
    OptionError
        The plan has no such system.
    """
    wanted = plan.names(values["systems"]) or list(found)
    for name in wanted:
        if name not in found:
            raise OptionError(unknown_name("system", name, found, "systems of the plan"))
    return {name: one for name, one in found.items() if name in wanted}


def claims_of(found: Mapping[str, Planned], exp: experiment.Experiment) -> list[tuple[str, str]]:
    """The plan's claims. Those of the file about a layer or size that the plan does not have are told and left out.

    So are the file's about any other systems where the command line has another ``plan``.

    Raises
    ------
    OptionError
        They are no pairs of systems, or name one that the plan does not have.
    """
    claims = read_claims(exp.values.get("claims") or [])
    kinds = {_NUMBER.sub("", name) for name in found}
    controls = any(name.endswith("-untrained") for name in found)  # none: they were left out
    own, other_plan = "claims" in exp.given, "plan" in exp.given
    for better, worse in claims:
        lacking = [name for name in (better, worse) if name not in found]
        for name in lacking:
            if own or (_NUMBER.sub("", name) not in kinds and not other_plan
                       and (controls or not name.endswith("-untrained"))):
                raise OptionError(f"claim [{better}, {worse}]: "
                                  + unknown_name("system", name, found, "systems of the plan"))
        if lacking:
            print(f"claim left out: {better} is better than {worse}; the plan has no {' and no '.join(lacking)}")
    return [claim for claim in claims if set(claim) <= found.keys()]


def _planned(exp: experiment.Experiment, options: dict[str, Any]) -> Planned:
    values = exp.values
    file, recipe = exp.file.parent / options.pop("hparams"), options.pop("recipe", "train_ser.py")
    if not file.is_file():
        raise OptionError(f"{exp.file}: the plan names {file}, which is not there; a name is relative to the plan's "
                          "folder: keep the plan beside the files that it names, or write their paths")
    suffix = options.pop("suffix", None)
    for key in (*options, *values["options"]):
        if key in TOLD or (key == "encoder" and key in values["options"]):
            raise OptionError(f"{exp.file}: {key} is one for all systems: give --{key}, not as an option")
        if key in OURS:
            raise OptionError(f"{exp.file}: {key} is what the plan gives each run: choose by --{OURS[key]}")
    keys = command_line.experiment(command_line.tree(file)).keys()
    shared = {"encoder": values["encoder"]} if "encoder" in keys else {}
    shared |= {key: value for key, value in values["options"].items()
               if recipe == "train_ser.py" or (key in keys and recipe != "train_sklearn.py")}
    of_all = {key: values[key] for key in TOLD if values["test_corpus"] is not None or not key.startswith("test_")}
    complete = of_all | shared | options
    given = [f"--{key}" if exp.run_opts[key] is True else f"--{key}={exp.run_opts[key]}"
             for key in sorted(exp.run_opts.overridden_args - {"noprogressbar"})]  # SpeechBrain's
    told = [f"--{key}={told_value(value)}" for key, value in complete.items()]
    words = (str(file), *told, *given, "--noprogressbar")
    if suffix is not None and not re.fullmatch(r"[^\s/,]+", str(suffix)):
        raise OptionError(f"{exp.file}: suffix '{suffix}' is part of a folder's name and of one in --systems: it has "
                          "neither /, comma nor white space")
    one = runs.load_recipe(HERE / recipe).load(words)
    system = runs.build(HERE / recipe, HERE, one)
    name = system.name if suffix is None else f"{system.name}-{suffix}"
    told_apart = options if suffix is None else {**options, "suffix": suffix}
    if "encoder" in options:
        source = str(options["encoder"]).removeprefix(UNTRAINED)
        told_apart = {key: value for key, value in told_apart.items() if key != "encoder"} | (
            {} if source == values["encoder"] else {"encoder": source})
    return Planned(str(HERE / recipe), words, told_apart, one, replace(system, name=name))


def seeds_of(found: Mapping[str, Planned], number: int, number_of: Mapping[str, int]) -> dict[str, range]:
    """The seeds of each system of the plan.

    The number of a kind is that of the systems whose names begin with it; the longest such beginning counts.

    Raises
    ------
    OptionError
        The plan has no system of some kind.
    """
    seeds, unused = {}, set(number_of)
    for name, one in found.items():
        kinds = sorted((kind for kind in number_of if f"{name}-".startswith(f"{kind}-")), key=len)
        unused -= set(kinds)
        last = 1 if one.system.deterministic else number_of[kinds[-1]] if kinds else number
        seeds[name] = range(1, last + 1)
    for kind in sorted(unused):
        known = found if _NUMBER.search(kind) else {_NUMBER.sub("", name) for name in found}
        raise OptionError("--runs_of: " + unknown_name("kind of system", kind, known, "those of the plan"))
    return seeds
