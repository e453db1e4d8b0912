"""What is refused before torch and SpeechBrain are imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cross_validate
import plan
import pytest
from speechbrain.utils.run_opts import RunOptions

from ser_plugins import command_line
from ser_plugins.errors import OptionError

ROOT = Path(__file__).parents[1]
MISTAKES = (
    ("train_ser.py", "mp.yaml", "--leyer", "2", "no option '--leyer'; did you mean '--layer'?"),
    ("train_ser.py", "rnn.yaml", "--head", "progresive", "no head 'progresive'; did you mean 'progressive'?"),
    ("train_ser.py", "mp.yaml", "--corpus", "emodbb", "no corpus 'emodbb'; did you mean 'emodb'?"),
    ("train_ser.py", "mp.yaml", "--regime", "papr", "no regime 'papr'; did you mean 'paper'?"),
    ("train_asr.py", "asr_small.yaml", "--devise", "cpu", "no option '--devise'; did you mean '--device'?"),
    ("train_sklearn.py", "svm.yaml", "--seed", "=", "--seed needs a value"),
    ("probe.py", "probe.yaml", "seed=1", "", "unexpected 'seed=1'"),
    ("cross_validate.py", "table2.yaml", "--runs", "3", "table2.yaml: no such YAML file"),
    ("cross_validate.py", "table1.yaml", "--systems", "mp-1,rn-2",
     "no system 'rn-2' in the plan: no head 'rn'; did you mean 'rnn'? those of the plan: baseline, "),
)
PROGRAM = """
import contextlib, io, json, runpy, sys
from pathlib import Path

sys.modules["torch"] = None  # an import of it fails, and so does one of speechbrain
root, mistakes = Path(sys.argv[1]), json.loads(sys.argv[2])
sys.path.insert(0, str(root / "recipes"))
found = []
for recipe, file, *words, _ in mistakes:
    sys.argv = [recipe, str(root / "hparams" / file), *words]
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            runpy.run_path(str(root / "recipes" / recipe), run_name="__main__")
        except SystemExit as end:
            found.append([end.code, errors.getvalue()])
print(json.dumps(found))
"""


def test_a_misspelt_name_is_told_without_torch():
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(ROOT), json.dumps(MISTAKES)], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    for (*words, message), (code, error) in zip(MISTAKES, json.loads(done.stdout), strict=True):
        assert code == 2, words
        assert error.startswith("error: "), words
        assert message in error, words
        assert error.count("\n") == 1, words


def test_the_run_options_are_speechbrains():
    wanted = {key: value for key, value in RunOptions().as_dict().items()
              if key not in ("param_file", "overridden_args")}
    found = command_line.run_options()
    assert list(found) == list(wanted)
    assert {key for key, value in found.items() if value is False} == {
        key for key, value in wanted.items() if value is False}


@pytest.mark.parametrize("words", [
    ("--systems", "mp-1,rnn-99"),  # of layers the built systems tell
    ("--systems", "[svm-egemaps, random]"),
    ("--options", "{head: attention}", "--systems", "attention-2"),
    ("--plan", "[{recipe: theirs.py, hparams: mp.yaml}]", "--systems", "their-own"),
    ("--plan", "[{hparams: nothing.yaml}]", "--systems", "mp-1"),
    ("--plan", "[mp.yaml]", "--systems", "mp-1"),
    ("--plan", "3", "--systems", "mp-1"),
    ("--options", "3", "--systems", "mp-1"),
])
def test_what_may_be_a_system_is_left_to_the_plan(words):
    plan.refuse_misspelt_systems([str(ROOT / "hparams/table1.yaml"), *words])


@pytest.mark.parametrize("file", ["mp.yaml", "probe.yaml"])
def test_a_file_that_is_no_plan_is_told_in_a_sentence(recipe, file):
    plan.refuse_misspelt_systems([str(ROOT / "hparams" / file)])
    with pytest.raises(OptionError, match=rf"{file}: no key '\w+'.*keys of this file: "):
        recipe(cross_validate.main, file)


@pytest.mark.parametrize("name", ["rn-2", "mp2", "most-frequnt", ""])
def test_a_system_of_no_head_is_refused(name):
    with pytest.raises(OptionError, match=f"no system '{name}' in the plan: no head '.*'.* baseline, linear, most"):
        plan.refuse_misspelt_systems([str(ROOT / "hparams/table1.yaml"), "--systems", f"[mp-1, '{name}']"])


@pytest.mark.parametrize(("words", "told"), [
    (["mp.yaml", "--layer", "1", "--help"], ("Trains and tests one emotion system", "lr: 0.06",
                                             "annealing_factor: 0.5      # (I)")),
    (["--help"], ("Trains and tests one emotion system", "usage: python recipes/RECIPE.py")),
])
def test_help_is_the_recipes_text_and_its_files(words, told):
    """Without torch: it takes seconds."""
    script = ROOT / "recipes/train_ser.py"
    words = [str(ROOT / "hparams" / word) if word.endswith(".yaml") else word for word in words]
    run = ("import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
           "runpy.run_path(sys.argv[0], run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", run, script, *words], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'recipes'}"})
    assert [text for text in told if text not in done.stdout] == []
