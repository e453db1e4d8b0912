"""The example package, installed by pip beside this one, is a plugin like any other."""

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import processes
import pytest
import train_ser

EXAMPLE = Path(__file__).parents[1] / "examples/ser-head-attention"


def reason_not_to_build():
    """Why this environment cannot build a package by itself; empty where it can."""
    if importlib.util.find_spec("setuptools") is None:
        return "setuptools is not installed"
    modern = tuple(int(part) for part in version("setuptools").split(".")[:2]) >= (70, 1)  # it brings bdist_wheel
    if not modern and importlib.util.find_spec("wheel") is None:
        return f"setuptools {version('setuptools')} builds no wheel; 70.1 does"
    return ""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Variables of an environment in which the example is installed."""
    if reason_not_to_build():
        pytest.skip(reason_not_to_build())
    folder = tmp_path_factory.mktemp("example")
    source, target = folder / "source", folder / "target"
    shutil.copytree(EXAMPLE, source)  # a build leaves files beside setup.py
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
               "--disable-pip-version-check", "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


@pytest.fixture(scope="module")
def ser(environment, tmp_path_factory):
    """The command ``ser`` there."""
    script = tmp_path_factory.mktemp("program") / "ser.py"
    script.write_text("import sys; from ser_plugins import cli; sys.exit(cli.main())")
    return lambda *words: processes.run(script, words, environment=environment)


def test_it_is_listed_beside_the_built_in_heads(ser):
    done = ser("list", "heads")
    assert "  attention        ser-head-attention 0.1.0 (ser_head_attention:Attention)" in done.stdout
    assert "  progressive      ser_plugins" in done.stdout


def test_it_keeps_the_contract(ser):
    done = ser("check", "attention")
    assert (done.codes, done.stderr) == ((0,), "")
    assert done.stdout.startswith("head 'attention' keeps all ")


def test_its_options_are_described(ser):
    done = ser("info", "attention")
    assert "ser-head-attention 0.1.0" in done.stdout
    assert "Needs(features=False, sequences='layer', means=(), log_probs=False)" in done.stdout
    assert "units: int = 64" in done.stdout


def test_its_own_test_passes(environment, tmp_path):
    (tmp_path / "run.py").write_text("import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))")
    words = ("-q", "-p", "no:cacheprovider", EXAMPLE / "test_contract.py")
    done = processes.run(tmp_path / "run.py", words, environment=environment)
    assert done.codes == (0,), done.stdout


def test_it_trains(environment, small, tmp_path):
    root = EXAMPLE.parents[1]
    words = (root / "hparams/rnn.yaml", "--head", "attention", *small, "--output_root", tmp_path, "--noprogressbar")
    done = processes.run(root / "recipes/train_ser.py", words, environment=environment)
    assert done.codes == (0,), done.stderr
    (folder,) = tmp_path.glob("synthetic/attention-2/test-S01/seed-1")
    assert len((folder / "predictions.csv").read_text().splitlines()) == 1 + 12
    assert json.loads((folder / "model/model.json").read_text())["head_options"] == {
        "layer": 2, "units": 16, "dropout": 0.25}
    trained = json.loads((folder / "metrics.json").read_text())["protocol"]["trainable_parameters"]
    assert trained == (32 * 16 + 16) + (16 + 1) + (2 * 32 * 4 + 4)  # two layers of weighing, the output layer


def test_a_head_of_other_code_is_another_setting(monkeypatch, tmp_path):
    """Edited between two runs: the old weights are not tested with the new code."""
    module = tmp_path / "stranger.py"
    module.write_text("class Mine: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = importlib.import_module("stranger").Mine
    before = train_ser.code_of(mine)
    module.write_text("class Mine: pass  # other\n")
    after = train_ser.code_of(mine)
    assert before.keys() == after.keys() == {"head_code"}
    assert before != after
