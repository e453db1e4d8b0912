"""The recipes' command line and YAML."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from ser_plugins import experiment
from ser_plugins.errors import OptionError
from ser_plugins.text import character_tokenizer

HPARAMS = Path(__file__).parents[1] / "hparams"
SYSTEMS = ("baseline", "mp", "rnn", "progressive")
FILE = """\
seed: 1
name: !PLACEHOLDER
folder: !ref results/<name>/<seed>
lr: 0.01
tempi: [0.9, 1.1]
options: {}
free: null
objects: {fast: !name:torch.optim.SGD {lr: !ref <lr>}, number: 3}
regime: small
regimes:
    paper:
    small: {lr: 0.1, batch_size: 8}
batch_size: 64
optimizer: !name:torch.optim.Adam
    lr: !ref <lr>
    weight_decay: !ref <free>
"""


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(FILE)
    return path


@pytest.fixture
def variation(base):
    path = base.with_name("variation.yaml")
    path.write_text("experiment: !include:base.yaml\n    name: ours\n    batch_size: 16\n")
    return path


def load(file, *arguments):
    return experiment.load([str(file), *arguments])


def system(name, *arguments):
    return load(HPARAMS / f"{name}.yaml", *arguments)


# Precedence


@pytest.mark.parametrize(("arguments", "lr", "batch_size"), [
    ([], 0.1, 16), (["--regime", "paper"], 0.01, 16), (["--lr", "0.5"], 0.5, 16),
    (["--lr=0.5", "--batch_size=2"], 0.5, 2), (["--batch_size", "2", "--regime", "paper"], 0.01, 2),
])
def test_the_command_line_comes_before_the_variation_and_that_before_the_regime(variation, arguments, lr, batch_size):
    exp = load(variation, *arguments)
    built = exp.build()
    assert exp.values["lr"] == built["lr"] == built["optimizer"].keywords["lr"] == lr
    assert exp.values["batch_size"] == built["batch_size"] == batch_size
    assert exp.given == {argument[2:].split("=")[0] for argument in arguments if argument.startswith("--")}


def test_a_variation_and_its_base_differ_in_what_it_names(base, variation):
    ours, whole = load(variation, "--regime", "paper").values, load(base, "--name", "base", "--regime", "paper").values
    assert list(ours) == list(whole)
    assert {key for key in ours if ours[key] != whole[key]} == {"name", "folder", "batch_size"}
    assert ours["folder"] == "results/ours/1"


def test_values_are_plain_and_nothing_is_built_before_build(variation):
    values = load(variation).values
    assert "optimizer" not in values
    assert values["objects"] == {"number": 3}
    assert yaml.safe_load(yaml.safe_dump(dict(values))) == values
    assert type(values["tempi"]) is list


def test_build_takes_further_overrides(variation):
    exp = load(variation, "--seed", "5")
    built = exp.build({"name": "late"})
    assert (built["name"], built["folder"], built["seed"]) == ("late", "results/late/5", 5)
    assert exp.nested({"name": "late"}) == {"experiment": {"lr": 0.1, "seed": 5, "name": "late"}}


def test_the_regime_comes_before_the_base(base):
    assert load(base, "--name", "x").values["batch_size"] == 8
    assert load(base, "--name", "x", "--regime", "paper").values["batch_size"] == 64


# The command line


@pytest.mark.parametrize(("text", "value"), [
    ("3", 3), ("-3", -3), ("0.5", 0.5), ("1e-4", 1e-4), ("1e-05", 1e-5), ("0.00001", 1e-5), ("true", True),
    ("null", None), ("name", "name"), ("a b", "a b"), ("[1, 1e-3, b]", [1, 1e-3, "b"]), ("[]", []),
    ("/data/EmoDB", "/data/EmoDB"), ("03", "03"), ("08", "08"), ("007", "007"), ("10", 10), ("yes", "yes"), ("''", ""),
])
@pytest.mark.parametrize("joined", [True, False])
def test_a_value_is_the_same_in_values_and_in_what_is_built(variation, text, value, joined):
    exp = load(variation, *([f"--free={text}"] if joined else ["--free", text]))
    built = exp.build()
    for found in (exp.values["free"], built["free"], built["optimizer"].keywords["weight_decay"]):
        assert found == value
        assert type(found) is type(value)


@pytest.mark.parametrize("where", ["variation", "regime"])
def test_a_kind_is_checked_wherever_the_value_stands(base, where):
    if where == "regime":
        base.write_text(FILE.replace("lr: 0.1,", "lr: fast,"))
    path = base.with_name("variation.yaml")
    path.write_text("experiment: !include:base.yaml\n    name: ours\n" + "    lr: fast\n" * (where == "variation"))
    with pytest.raises(OptionError, match=r"--lr: 'fast' is not a number, such as 0\.01"):
        load(path)


def test_what_the_base_leaves_open_is_free():
    assert system("progressive", "--layer", "null").values["layer"] is None
    assert system("progressive", "--layer", "all").values["layer"] == "all"


def test_the_text_of_objects(variation):
    exp = load(variation, "--lr", "0.5")
    assert exp.text("objects", "fast") == "!name:torch.optim.SGD {lr: 0.5}"
    with pytest.raises(OptionError, match="no key 'fst'; did you mean 'fast'"):
        exp.text("objects", "fst")


def test_a_mapping_is_given_as_yaml(variation):
    exp = load(variation, "--options", "{label_rule: paper, speakers: 4}")
    assert exp.values["options"] == exp.build()["options"] == {"label_rule": "paper", "speakers": 4}


def test_run_options_go_to_speechbrain(variation):
    exp = load(variation, "--device", "cpu", "--debug", "--seed=7", "--max_grad_norm=3.5")
    assert (exp.run_opts.device, exp.run_opts.debug, exp.run_opts.max_grad_norm) == ("cpu", True, 3.5)
    assert exp.given == {"seed"}
    assert not load(variation).run_opts.debug


@pytest.mark.parametrize(("arguments", "message"), [
    (["--batchsize", "3"], r"no option '--batchsize'; did you mean '--batch_size'\? keys of this YAML file: bat"),
    (["--devise", "cpu"], r"no option '--devise'; did you mean '--device'\?"),
    (["--xyzzy=1"], "no option '--xyzzy'; keys of this YAML file"),
    (["--name", "=", "x"], "--name needs a value: --name VALUE or --name=VALUE, without spaces around '='"),
    (["--name=", "x"], "unexpected 'x'; options are written --key value or --key=value, without spaces around '='"),
    (["--name"], "--name needs a value"),
    (["--name", "--seed", "3"], "--name needs a value"),
    (["--device"], "--device needs a value"),
    (["name=x"], "unexpected 'name=x'"),
    (["--"], "unexpected '--'"),
    (["-seed", "3"], "unexpected '-seed'"),
    (["--tempi", "[0.9, "], r"--tempi: '\[0\.9, ' is not a YAML value"),
    (["--tempi", "[0.9,", "1.1]", "--name", "x"],
     r"--tempi: '\[0\.9,' is only the first of 2 words; has it lost its quotes\? --tempi \"\[0\.9, 1\.1\]\""),
    (["--name", "!!python/name:os.system"], "--name: .* is not a YAML value"),
    (["--regime", "papr"], r"no regime 'papr'; did you mean 'paper'\? known: paper, small"),
    (["--regime", "[paper]"], "no regime '"),
])
def test_a_wrong_command_line(variation, arguments, message):
    with pytest.raises(OptionError, match=message):
        load(variation, *arguments)


@pytest.mark.parametrize("arguments", [[], ["--seed", "3"]])
def test_without_a_file_the_usage_is_told(arguments):
    with pytest.raises(OptionError, match=r"usage: python recipes/RECIPE\.py HPARAMS\.yaml"):
        experiment.load(arguments)


# The file


def test_a_missing_file(tmp_path):
    with pytest.raises(OptionError, match=r"none\.yaml: no such YAML file; the first argument is one of hparams"):
        load(tmp_path / "none.yaml")


@pytest.mark.parametrize(("content", "message"), [
    ("a: [1, 2", r"file\.yaml is not valid YAML: .*line 1"),
    ("a: 1\na: 2", r"file\.yaml is not valid YAML: .*duplicate key"),
    ("experiment: !include:gone.yaml\n    a: 1", r"file\.yaml is a variation of gone\.yaml, which is not"),
    ("experiment: !include:base.yaml\n    name: x\n    batchsize: 1",
     r"file\.yaml: no key 'batchsize'; did you mean 'batch_size'\? keys of base\.yaml"),
    ("- 1\n- 2", r"file\.yaml holds no keys"),
    ("", r"file\.yaml holds no keys"),
    ("a: !ref <b>", r"file\.yaml: .*b"),
])
def test_a_broken_file(base, content, message):
    path = base.with_name("file.yaml")
    path.write_text(content)
    with pytest.raises(OptionError, match=f"(?s){message}"):
        load(path)


def test_a_mapping_for_a_number_is_told(base):
    with pytest.raises(OptionError, match=r"base\.yaml: one of these is no mapping in the file: --seed \{'mp': 3\}"):
        experiment.load([str(base), "--name", "x", "--seed", "{mp: 3}"])


def test_a_placeholder_wants_a_value(base):
    with pytest.raises(OptionError, match=r"base\.yaml: 'name' has no default; give it one: --name VALUE"):
        load(base)
    assert load(base, "--name", "x").values["folder"] == "results/x/1"


def test_a_key_that_a_recipe_reads_and_the_file_lacks(variation):
    exp = load(variation)
    for keys in (exp.values, exp.build()):
        with pytest.raises(OptionError, match=r"variation\.yaml: no key 'batches'; .*keys of this file"):
            keys["batches"]


def test_a_value_that_an_object_refuses(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("size: 3\nlayer: !new:torch.nn.Linear\n    in_features: !ref <size>\n    out_feature: 1\n")
    with pytest.raises(OptionError, match=r"file\.yaml: .*Linear"):
        load(path).build()


@pytest.mark.parametrize(("error", "message"), [
    (OptionError("no head 'x'"), "error: no head 'x'\n"),
    (OSError(28, "No space left on device"), "error: No space left on device; is the folder writable and the disk not"),
    (PermissionError(13, "Permission denied", "/x/y"), "error: /x/y: Permission denied; is the folder writable"),
])
def test_a_users_error_is_one_sentence_and_exit_code_2(capsys, error, message):
    def main(_):
        raise error

    with pytest.raises(SystemExit) as caught:
        experiment.run(main)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize("error", [ZeroDivisionError("ours"), ConnectionResetError("not a file's")])
def test_our_own_errors_keep_their_traceback(error):
    def main(_):
        raise error

    with pytest.raises(type(error)):
        experiment.run(main)


# The files that ship


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_papers_regime_has_the_papers_values(name):
    """Lakomkin et al. 2017, §3.1.2 and §3.3.1."""
    built = system(name, "--regime", "paper").build()
    assert (built["opt_class"].func, built["opt_class"].keywords) == (torch.optim.Adam, {"lr": 1e-4})
    assert (built["batch_size"], built["max_grad_norm"], built["lr_end"], built["dropout"]) == (64, 15, 1e-6, 0.25)
    assert (min(built["tempi"]), max(built["tempi"]), built["gain"]) == (0.85, 1.15, [-3, 6])
    assert built["labels"] == ["anger", "happiness", "neutral", "sadness"]


def test_the_papers_learning_rate_is_annealed_after_two_epochs_without_a_better_loss():
    anneal = system("baseline", "--regime", "paper").build()["lr_annealing"]
    group = {"lr": 1e-4}
    optimizer = SimpleNamespace(param_groups=[group])
    rates = []
    for number, loss in enumerate([1.0, 0.9, 0.91, 0.92, 0.8, 0.81, *[1.0] * 40], start=1):
        group["lr"] = anneal([optimizer], number, loss)[1]
        rates.append(group["lr"])
    assert rates[:3] == [1e-4] * 3
    assert rates[3] == rates[4] == rates[5] < 1e-4
    assert rates[6] < rates[5]  # 0.8 was the best, and two epochs are worse
    assert rates[-1] == 1e-6


def test_the_systems_differ_in_the_head_and_its_arguments_only():
    own = {"head", "layer", "units", "dropout"}
    values = {name: system(name, "--regime", "paper").values for name in SYSTEMS}
    first = values["baseline"]
    for name in SYSTEMS:
        assert values[name]["head"] == name
        assert {key for key in first if first[key] != values[name][key]} <= own | {"regimes"}
        assert list(values[name]) == list(first)
        assert set(yaml.load((HPARAMS / f"{name}.yaml").read_text(), IncludeIgnorer)["experiment"]) <= own | {"regimes"}
    small = [system(name).values for name in SYSTEMS]
    assert [one["lr"] for one in small] == [0.004, 0.06, 0.004, 0.004]  # mp is one linear layer


class IncludeIgnorer(yaml.SafeLoader):
    """Reads an included experiment as the mapping of what the file itself says."""


IncludeIgnorer.add_multi_constructor("!include:", lambda loader, _, node: loader.construct_mapping(node))


@pytest.fixture
def tokenizer(tmp_path):
    """Override that names a tokenizer's file, which the recipe writes before it builds the encoder."""
    (tmp_path / "tokenizer.model").write_bytes(character_tokenizer())
    return {"tokenizer_file": str(tmp_path / "tokenizer.model")}


def test_the_small_recogniser_differs_from_the_papers_in_values_only(tokenizer):
    options = ("--data_folder", "LibriSpeech", "--units", "4", "--channels", "2")
    large, small = (load(HPARAMS / f"{name}.yaml", *options) for name in ("asr", "asr_small"))
    assert list(small.values) == list(large.values)
    first, second = large.build(tokenizer), small.build(tokenizer)
    assert list(first) == list(second)
    assert all(type(first[key]) is type(second[key]) for key in set(first) - set(large.values))


def test_the_papers_recogniser(tokenizer):
    """Lakomkin et al. 2017, §3.1.1: SGD, 3e-4 divided by 1.1 after every epoch, five layers of bidirectional GRU."""
    options = ("--data_folder", "LibriSpeech", "--channels", "2", "--units", "4")
    built = load(HPARAMS / "asr.yaml", *options).build(tokenizer)
    optimizer, schedule = built["optimizers"][built["optimizer"]], built["schedules"][built["schedule"]]
    assert (optimizer.func, optimizer.keywords["lr"]) == (torch.optim.SGD, 3e-4)
    assert schedule.func is torch.optim.lr_scheduler.ExponentialLR
    assert schedule.keywords["gamma"] == pytest.approx(1 / 1.1)
    assert (built["num_layers"], built["cell"], built["max_duration"]) == (5, "gru", 15.0)
    assert built["encoder"].vocabulary == 29


def test_a_variation_without_its_base_is_told(tmp_path):
    (tmp_path / "mine.yaml").write_text((HPARAMS / "mp.yaml").read_text())
    with pytest.raises(OptionError, match=r"mine\.yaml is a variation of ser\.yaml, which is not beside it in "):
        load(tmp_path / "mine.yaml")


def test_an_interruption_is_told_in_a_line(monkeypatch, capsys):
    def main(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["recipe.py", "a.yaml"])
    with pytest.raises(SystemExit, match="130"):
        experiment.run(main)
    assert capsys.readouterr().err == "\ninterrupted; the same command goes on where it was\n"


def test_a_queue_that_ends_a_program_interrupts_it(capsys):
    before = signal.getsignal(signal.SIGTERM)

    def main(argv):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    with pytest.raises(SystemExit, match="143"):
        experiment.run(main)
    assert capsys.readouterr().err == "\ninterrupted; the same command goes on where it was\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_recipe_runs_in_another_thread():
    called = []
    thread = threading.Thread(target=experiment.run, args=(called.append,))
    thread.start()
    thread.join()
    assert len(called) == 1
