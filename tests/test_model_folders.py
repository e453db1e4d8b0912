"""Model folders: what is exported is complete and gives the same; what strangers put in is refused, and not run."""

import json
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from safetensors.torch import load_file, save_file

from ser_plugins import cli, folder_check, hub, models, safe_yaml
from ser_plugins.contracts import Head, Needs
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.errors import DataError, OptionError, SerError
from ser_plugins.export import export_model, push_model, shared_yaml
from ser_plugins.inference import EmotionRecognizer
from ser_plugins.text import character_tokenizer
from ser_plugins.weights import bounded

LABELS = ["anger", "happiness", "neutral", "sadness"]
HYPERPARAMETERS = """
experiment:
  seed: 1
  data_folder: /srv/ann/EmoDB
  output_root: /srv/ann/results
  labels: [anger, happiness, neutral, sadness]
  encoder: /srv/ann/encoder
  tempi: (0.9, 1.1)
  lr: 1e-05
  opt_class: !name:torch.optim.Adam
    lr: 1e-05
  own: !new:ann.Secret [1]
  corpus_options: {label_map: /srv/ann/map.csv, folders: ['/srv/ann/a', "C:\\\\ann", b/c], rate: 1/2}
  lr_annealing: !new:speechbrain.nnet.schedulers.ReduceLROnPlateau
    patience: 3
"""


def waveforms():
    batch = 0.1 * torch.randn(2, 20000, generator=torch.Generator().manual_seed(0))
    return batch, torch.tensor([1.0, 0.6])


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder")
    DeepSpeech2(units=8, num_layers=2, channels=2, time_strides=(2, 2), tokenizer=character_tokenizer()).save(folder)
    return folder


def make_run(folder, encoder, head="mp", options=None, features="mfcc_pitch", feature_options=None, **more):
    """The folder that a training leaves, of a head with random weights."""
    from ser_plugins import predictions, registry
    from ser_plugins.corpora.manifest import Row
    from ser_plugins.metrics import summary

    feature_options = {"pitch": "yin"} if feature_options is None else feature_options
    options = {"layer": 2} if options is None else options
    extractor = registry.create("features", features, feature_options)
    loaded = models.load_encoder(encoder)
    torch.manual_seed(1)
    built = registry.create("heads", head, options, {
        "feature_dim": extractor.dim, "layer_dims": loaded.layer_dims, "num_classes": 4})
    models.save_model(folder / "model", {
        "labels": LABELS, "features": features, "feature_options": feature_options, "encoder": str(encoder),
        "head": head, "head_options": options, **more}, extractor, loaded, built)
    rows = [Row(f"u{number}", Path("none.wav"), 0.0, 1.0, 1.0, 16000, speaker, "", "", label, "")
            for number, (speaker, label) in enumerate((speaker, label) for speaker in ("03", "08") for label in LABELS)]
    outcome = [(row, [0.7, 0.1, 0.1, 0.1]) for row in rows]
    predictions.write(folder / "predictions.csv", outcome, LABELS)
    result = summary([row.emotion for row in rows], ["anger"] * len(rows), LABELS)
    fold = {"test": "03", "valid": "09", "train": ["10", "11"]}
    protocol = {"system": f"{head}-2", "fold": fold, "definitions": {"split": "one speaker out"},
                "counts": {part: dict.fromkeys(LABELS, 2) for part in ("train", "valid", "test")},
                "settings": {"corpus": "emodb", "test_corpus": None, "seed": 1}}
    (folder / "settings.json").write_text("{}")
    (folder / "metrics.json").write_text(json.dumps(
        {**result, "ECE": 0.1, "epochs": 5, "tested_epoch": 4, "protocol": protocol}))
    (folder / "hyperparams.yaml").write_text(HYPERPARAMETERS)
    return folder


@pytest.fixture(scope="module")
def run(encoder_folder, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), encoder_folder, temperature=1.5)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return export_model(run, tmp_path_factory.mktemp("exported") / "model")


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of an exported folder, to spoil."""
    return Path(shutil.copytree(exported, tmp_path / "model"))


def classify(source, device="cpu"):
    return EmotionRecognizer.from_hparams(source=source, run_opts={"device": device}).classify_batch(*waveforms())[0]


@pytest.mark.parametrize("prefix", ["", "untrained:", "deepspeech2:", "untrained:deepspeech2:"])
def test_a_run_names_its_encoders_folder_from_anywhere(encoder_folder, tmp_path, monkeypatch, prefix):
    monkeypatch.chdir(encoder_folder.parent)
    run = make_run(tmp_path / "run", f"{prefix}{encoder_folder.name}")
    assert json.loads((run / "model" / "model.json").read_text())["encoder"] == f"{prefix}{encoder_folder}"
    monkeypatch.chdir(tmp_path)
    assert models.load_model(run).labels == LABELS


def test_a_run_keeps_the_names_that_are_no_folders(tmp_path, monkeypatch):
    (tmp_path / "deepspeech2").mkdir()  # a plugin goes before a folder of its name
    monkeypatch.chdir(tmp_path)
    for name in ("deepspeech2", "untrained:deepspeech2", "huggingface:facebook/hubert-base-ls960"):
        assert models._from_anywhere(name) == name


# What is exported


def test_an_exported_folder_gives_what_its_run_gives(run, exported, encoder_folder, tmp_path):
    moved = Path(shutil.copytree(exported, tmp_path / "elsewhere"))
    assert torch.equal(classify(moved), classify(run))
    files = {path.relative_to(moved).as_posix() for path in moved.rglob("*") if path.is_file()}
    assert files == {"README.md", "model.json", "head.safetensors", "hyperparams.yaml", "checksums.json",
                     "encoder/encoder.json", "encoder/weights.safetensors", "encoder/tokenizer.model"}
    for path in moved.rglob("*.*"):  # nothing tells where it was made
        assert str(run).encode() not in path.read_bytes()
        assert str(encoder_folder).encode() not in path.read_bytes()
        assert b"/srv/ann" not in path.read_bytes()
    assert models.load_model(moved).temperature == 1.5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_an_exported_folder_loads_on_a_gpu(exported):
    torch.testing.assert_close(classify(exported, "cuda").cpu(), classify(exported), rtol=0, atol=1e-3)


@pytest.mark.parametrize("encoder", ["deepspeech2", "untrained:deepspeech2"])
def test_the_shipped_encoder_travels_with_its_licence(tmp_path, encoder):
    out = export_model(make_run(tmp_path / "run", encoder), tmp_path / "out")
    assert "CC BY 4.0" in (out / "encoder" / "README.md").read_text()
    told = "its licence is told in `encoder/README.md`" in (out / "README.md").read_text()
    assert told is (encoder == "deepspeech2")  # random weights have none
    assert json.loads((out / "model.json").read_text())["encoder"] == encoder.replace("deepspeech2", "encoder")
    assert torch.equal(classify(out), classify(tmp_path / "run"))


def test_an_installed_encoder_may_stay_where_it_is(tmp_path, encoder_folder):
    run = make_run(tmp_path / "run", "deepspeech2")
    assert cli.main(["export", str(run), str(tmp_path / "out"), "--without_encoder"]) == 0
    assert not (tmp_path / "out" / "encoder").exists()
    assert torch.equal(classify(tmp_path / "out"), classify(run))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "recogniser is not in this folder" in card
    assert "encoder/README.md" not in card
    own = make_run(tmp_path / "own", encoder_folder)
    for source, onnx, told in ((own, False, "cannot be left out: its weights are none that DeepSpeech2 brings along"),
                               (run, True, r"model\.onnx and a folder without the encoder go not together")):
        with pytest.raises(OptionError, match=told):
            export_model(source, tmp_path / "none", onnx, with_encoder=False)
        assert not (tmp_path / "none").exists()


def test_random_weights_are_told_as_such(tmp_path):
    run = make_run(tmp_path / "run", "untrained:deepspeech2")
    for number, with_encoder in enumerate((True, False)):
        card = (export_model(run, tmp_path / str(number), with_encoder=with_encoder) / "README.md").read_text()
        assert "random weights" in card
        assert "Encoder: its licence" not in card


def test_an_empty_name_is_no_model():
    with pytest.raises(DataError, match="a model with an empty name"):
        models.load_model("")


def test_the_model_that_ships_is_small_and_loads():
    model = models.load_model(None)
    assert (model.folder, model.labels) == (models.SHIPPED, LABELS)
    assert sum(path.stat().st_size for path in models.SHIPPED.iterdir()) < 100_000
    assert "Burkhardt et al. 2005" in (models.SHIPPED / "README.md").read_text()
    assert torch.isfinite(classify(None)).all()


def test_an_empty_folder_is_written_into_and_may_be_the_current_one(run, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    assert export_model(run, ".") == tmp_path / "out"
    assert Path("model.json").is_file()  # the current folder is still this one
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert torch.equal(classify("."), classify(run))


def test_the_yaml_is_resolved_checked_and_loads(exported):
    path = exported / "hyperparams.yaml"
    safe_yaml.check(path)
    with open(path, encoding="utf-8") as file:
        found = load_hyperpyyaml(file)
    assert found.keys() == {"seed", "labels", "encoder", "tempi", "lr", "opt_class", "own", "corpus_options",
                            "lr_annealing"}
    assert (found["seed"], found["labels"]) == (1, LABELS)
    assert (found["encoder"], found["lr"], found["tempi"]) == ("encoder", 1e-5, (0.9, 1.1))
    gone = "a path, left out"
    assert found["corpus_options"] == {"label_map": gone, "folders": [gone, gone, "b/c"], "rate": "1/2"}
    assert found["own"] == "!new:ann.Secret (an object, left out)"
    assert found["opt_class"].func is torch.optim.Adam
    assert found["lr_annealing"].patience == 3


def test_the_model_card_tells_the_runs_numbers(exported):
    card = (exported / "README.md").read_text()
    for text in ("# mp-2:", "| corpus | emodb |", "8 utterances of 2 speakers (10, 11)", "**0.250**",
                 "| anger | 1.000 |", "| sadness | 0.000 |", "| 03 | 0.250 | 0.250 | 4 |", "| 08 | 0.250 |",
                 "By gender: not known",
                 "expected calibration error 0.100, before the temperature. Chance",
                 "temperature 1.500", "Burkhardt et al. 2005", "language: [de]", "Intended use"):
        assert text in card, text
    assert "openSMILE" not in card  # mp reads no pitch


def test_the_model_card_of_a_system_without_a_temperature_speaks_of_none(encoder_folder, tmp_path):
    card = (export_model(make_run(tmp_path / "run", encoder_folder), tmp_path / "out") / "README.md").read_text()
    assert "expected calibration error 0.100. Chance" in card
    assert "temperature" not in card


@pytest.mark.parametrize(("features", "options", "told"), [
    ("egemaps", {}, True), ("mfcc_pitch", {"pitch": "opensmile"}, True), ("mfcc_pitch", {"pitch": "yin"}, False),
    ("logmel", {}, False)])
def test_the_model_card_tells_the_terms_of_the_features(run, features, options, told):
    from ser_plugins import model_card, registry

    model = models.load_model(run)
    heard = replace(model, extractor=registry.create("features", features, options), needs=Needs(features=True))
    notes = model_card._licences(heard, "emodb", None, True)
    assert any("non-commercial purposes only" in note for note in notes) is told


def test_the_model_card_knows_gender_and_opensmile(encoder_folder, tmp_path, monkeypatch):
    from ser_plugins import model_card

    people = {"03": "male", "08": "female"}
    monkeypatch.setattr(model_card, "_genders", lambda *_: people)
    run = make_run(tmp_path / "run", encoder_folder, "progressive", feature_options={"pitch": "opensmile"})
    card = (export_model(run, tmp_path / "out") / "README.md").read_text()
    assert "non-commercial purposes only" in card
    assert "| gender | UA | WA | utterances |" in card
    assert "| female | 0.250 | 0.250 | 4 |" in card


def gender_manifest(folder, corpus="emodb", ids=tuple(f"u{number}" for number in range(8)), gender="female"):
    from ser_plugins.corpora import manifest

    rows = [manifest.Row(one, "none.wav", 0.0, 1.0, 1.0, 16000, "08" if number >= 4 else "03", "", gender, "anger")
            for number, one in enumerate(ids)]
    manifest.write(rows, folder / "manifest.csv")
    (folder / "manifest.json").write_text(json.dumps({"corpus": corpus}))


@pytest.mark.parametrize(("spoil", "known"), [
    (lambda folder: None, True),
    (lambda folder: gender_manifest(folder, corpus="ravdess"), False),
    (lambda folder: gender_manifest(folder, ids=[f"u{number}" for number in range(7)]), False),
    (lambda folder: gender_manifest(folder, ids=[f"u{number}" for number in range(7, -1, -1)]), False),
    (lambda folder: (folder / "manifest.json").unlink(), False),
    (lambda folder: (folder / "manifest.json").write_text("["), False),
    (lambda folder: (folder / "manifest.csv").write_text("a,b\n1"), False),
    (lambda folder: (folder / "manifest.csv").write_bytes(b"\xff\x00"), False),
    (lambda folder: (folder / "manifest.csv").unlink(), False),
])
def test_genders_come_from_the_manifest_of_the_runs_own_corpus(run, tmp_path, spoil, known):
    from ser_plugins import model_card, predictions

    said = predictions.read(run / "predictions.csv")
    gender_manifest(tmp_path)
    spoil(tmp_path)
    found = model_card._genders(tmp_path / "mp" / "run", said, "emodb", None)
    assert found == ({"03": "female", "08": "female"} if known else {})


def test_an_unrelated_manifest_does_not_hide_the_runs_own(run, tmp_path):
    """Whose speakers bear, in predictions, the name of the corpus that was tested."""
    from ser_plugins import model_card, predictions

    said = predictions.read(run / "predictions.csv")
    theirs = replace(said, ids=[f"emodb/{one}" for one in said.ids], speakers=[f"emodb/{one}" for one in said.speakers])
    (tmp_path / "ravdess-to-emodb").mkdir()
    gender_manifest(tmp_path, corpus="emodb", ids=["u1"])
    (tmp_path / "manifests" / "ravdess-to-emodb").mkdir(parents=True)
    gender_manifest(tmp_path / "manifests" / "ravdess-to-emodb", gender="male")
    found = model_card._genders(tmp_path / "ravdess-to-emodb" / "run", theirs, "ravdess", "emodb")
    assert found == {"emodb/03": "male", "emodb/08": "male"}


def test_a_run_trained_by_the_recipe_is_exported(runs, tmp_path, capsys):
    """By the command; its manifest says that S01 is a woman."""
    assert cli.main(["export", str(runs["rnn"]), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| gender | UA" in card
    assert "| female |" in card
    assert torch.equal(classify(tmp_path / "out"), classify(runs["rnn"]))
    assert "\nhead: rnn\n" in (tmp_path / "out" / "hyperparams.yaml").read_text()


@pytest.mark.parametrize(("spoil", "error", "message"), [
    (lambda run, out: (run / "metrics.json").unlink(), DataError, "holds no metrics.json: ser export takes"),
    (lambda run, out: (run / "metrics.json").write_text("{"), DataError, r"metrics\.json is corrupt"),
    (lambda run, out: (run / "metrics.json").write_text("{}"), DataError, "metrics.json lacks 'protocol'"),
    (lambda run, out: (run / "hyperparams.yaml").write_text("1"), DataError, "hyperparams.yaml holds no mapping"),
    (lambda run, out: out.write_text("a file"), OptionError, "exists already; name another folder"),
    (lambda run, out: (out / "sub").mkdir(parents=True), OptionError, "exists already"),
    (lambda run, out: (run / "model" / "head.safetensors").unlink(), DataError, "head.safetensors is corrupt"),
])
def test_what_cannot_be_exported_leaves_nothing(run, tmp_path, spoil, error, message):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    spoil(copy, tmp_path / "out")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=message):
        export_model(copy, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_an_encoder_that_others_could_not_read_safely_is_not_exported(run, tmp_path, monkeypatch):
    monkeypatch.setattr(DeepSpeech2, "safe_folder", False)
    with pytest.raises(OptionError, match=r"read by DeepSpeech2, which does not declare .* \(safe_folder\)"):
        export_model(run, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_shipped_weights_that_may_not_travel_stay_with_their_plugin(tmp_path, monkeypatch):
    monkeypatch.setattr(DeepSpeech2, "safe_folder", False)
    out = export_model(make_run(tmp_path / "run", "deepspeech2"), tmp_path / "out")
    assert json.loads((out / "model.json").read_text())["encoder"] == "deepspeech2"
    assert not (out / "encoder").exists()
    assert models.load_model(out).labels == LABELS


# Malicious folders. Whatever runs makes a file named `marker`.


def change(folder, name="model.json", **values):
    """Changes values of a JSON file, and its checksum, as an attacker would."""
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **values}, indent=2))


def change_encoder(folder, **values):
    content = json.loads((folder / "encoder" / "encoder.json").read_text())
    change(folder, "encoder/encoder.json", architecture={**content["architecture"], **values})


class Payload:
    """Its pickle makes the marker when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def pickled(name):
    return lambda folder, marker: (folder / name).write_bytes(pickle.dumps(Payload(marker)))


def tensors(**changed):
    def spoil(folder, marker):
        path = folder / "head.safetensors"
        weights = load_file(path)
        save_file({**weights, **{name.replace("__", "."): make(weights) for name, make in changed.items()}}, path)
    return spoil


def huge(folder, marker):
    """A header that promises more than the file has."""
    header = json.dumps({"output.weight": {"dtype": "F32", "shape": [4, 10**12], "data_offsets": [0, 16 * 10**12]}})
    (folder / "head.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())


def link(name, target, is_folder=False):
    def spoil(folder, marker):
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target, target_is_directory=is_folder)
    return spoil


def text(name, content):
    return lambda folder, marker: (folder / name).write_text(content)


def auto_map(folder, marker):
    """A folder of transformers' whose code lies in a repository: to load it, transformers asks, and then runs it."""
    for name, content in (("encoder", {"encoder": "huggingface"}), ("preprocessor_config", {}), ("config", {
            "model_type": "evil", "auto_map": {"AutoConfig": "ann/evil--evil.Config"}})):
        (folder / "encoder" / f"{name}.json").write_text(json.dumps(content))


HEAD = r"head\.safetensors"
ATTACKS = {
    "an encoder elsewhere": (lambda folder, marker: change(folder, encoder="/etc"),
                             r"model\.json, line \d+: encoder '/etc' is neither installed nor 'encoder'"),
    "an encoder above": (lambda folder, marker: change(folder, encoder="../../encoder"),
                         r"model\.json, line \d+: encoder '\.\./\.\./encoder' is neither"),
    "an encoder through the folder": (lambda folder, marker: change(folder, encoder="encoder/../../x"), "is neither"),
    "an untrained encoder elsewhere": (lambda folder, marker: change(folder, encoder="untrained:/etc"), "is neither"),
    "a head not installed": (lambda folder, marker: change(folder, head="evil"),
                             r"model\.json, line \d+: no head 'evil'; installed: "),
    "a head by path": (lambda folder, marker: change(folder, head="os:system"), "no head 'os:system'"),
    "features not installed": (lambda folder, marker: change(folder, features="evil"), "no feature extractor 'evil'"),
    "an encoder not installed": (lambda folder, marker: change(folder, "encoder/encoder.json", encoder="evil"),
                                 "no encoder 'evil'"),
    "an encoder with code": (auto_map, r"encoder\.json, line 1: encoder 'HuggingFace' does not declare that it reads"),
    "an option that does not exist": (lambda folder, marker: change(folder, head_options={"cmd": "id"}),
                                      "has no argument 'cmd'"),
    "an option of another type": (lambda folder, marker: change(folder, head_options={"layer": "__import__('os')"}),
                                  "layer must be int, not str"),
    "double labels": (lambda folder, marker: change(folder, labels=["a", "b", "a", "c"]),
                      r"model\.json, line \d+: labels holds 'a' twice"),
    "labels that are none": (lambda folder, marker: change(folder, labels=[1, 2, 3, 4]), "must be a list of names"),
    "fewer labels": (lambda folder, marker: change(folder, labels=["a", "b"]), HEAD + " does not fit the head"),
    "a temperature of zero": (lambda folder, marker: change(folder, temperature=0), "is no number from 0.05 to 20"),
    "a huge temperature": (lambda folder, marker: change(folder, temperature=10**400),
                           r"model\.json, line \d+: temperature 10{79} is no number from 0\.05 to 20"),
    "a tiny temperature": (lambda folder, marker: change(folder, temperature=1e-45), "temperature 1e-45 is no number"),
    "NaN in JSON": (text("model.json", '{"temperature": NaN}'), r"model\.json is corrupt: NaN is no value"),
    "JSON that is no mapping": (text("model.json", "[1]"), "model.json is corrupt: it holds no mapping"),
    "JSON that is none": (text("model.json", "{\n{"), r"model\.json is corrupt: line 2: "),
    "JSON nested deeply": (text("model.json", "[" * 200_000), r"model\.json is corrupt: it is nested too deeply"),
    "JSON of any size": (text("model.json", " " * 1_000_001), "1000001 bytes; a settings file has at most 1000000"),
    "a later format": (lambda folder, marker: change(folder, format=2), r"line \d+: format 2 is unknown"),
    "pickled weights": (pickled("head.pt"), r"head\.pt: pickled weights may run code"),
    "pickled weights of the encoder": (pickled("encoder/pytorch_model.bin"), "pytorch_model.bin: pickled weights"),
    "a pickle renamed": (pickled("head.safetensors"), HEAD + " is corrupt"),
    "an encoder's pickle renamed": (pickled("encoder/weights.safetensors"), r"weights\.safetensors is corrupt"),
    "weights with NaN": (tensors(output__weight=lambda weights: weights["output.weight"] * np.nan),
                         HEAD + ".*output.weight is not finite"),
    "weights of another shape": (tensors(output__bias=lambda weights: torch.zeros(5)),
                                 r"output\.bias has shape \(5,\), expected \(4,\)"),
    "whole-number weights": (tensors(output__bias=lambda weights: torch.zeros(4, dtype=torch.int64)), "is torch.int64"),
    "weights too many": (tensors(more=lambda weights: torch.zeros(1)), "more is not part of it"),
    "weights of an absurd size": (huge, HEAD + " is corrupt"),
    "an encoder of an absurd size": (lambda folder, marker: change_encoder(folder, units=200_000),
                                     r"holds \d+ values, and the network .* asks for"),
    "an encoder of endless layers": (lambda folder, marker: change_encoder(folder, num_layers=10**7),
                                     r"weights\.safetensors holds \d+ (tensors|values), and the network"),
    "a link out of the folder": (link("head.safetensors", "/etc/passwd"), "is a link to /etc/passwd, out of"),
    "a link to a folder": (link("encoder", "/etc", True), "encoder is a link to /etc, out of the model folder"),
    "a relative link": (link("README.md", "../../../x"), "out of the model folder"),
    "a pipe": (lambda folder, marker: os.mkfifo(folder / "extra.json"), "extra.json is no regular file"),
    "Python": (text("custom.py", "import os"), "custom.py is no file of a model folder"),
    "a tokenizer that is none": (text("encoder/tokenizer.model", "nonsense"), "tokenizer.model is corrupt"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_malicious_folder_is_refused(folder, tmp_path, name):
    attack, message = ATTACKS[name]
    attack(folder, tmp_path / "marker")
    if "link" not in name and name != "a pipe":
        folder_check.write_checksums(folder)  # the attacker writes them too
    with pytest.raises(SerError, match=message) as caught:
        EmotionRecognizer.from_hparams(source=folder)
    assert str(caught.value).count("\n") <= 5
    assert not (tmp_path / "marker").exists()


def test_only_a_run_may_have_its_encoder_from_elsewhere(run, tmp_path, monkeypatch):
    """A stranger leaves `format` out, and names a repository."""
    asked = []
    monkeypatch.setattr(DeepSpeech2, "from_pretrained", lambda source: asked.append(source) or 1 / 0)
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    change(copy / "model", encoder="deepspeech2:ann/evil")
    Path(shutil.copytree(copy / "model", tmp_path / "downloaded" / "model"))
    for source in (tmp_path / "downloaded", tmp_path / "downloaded" / "model"):
        with pytest.raises(DataError, match=r"model\.json, line \d+: encoder 'deepspeech2:ann/evil' is had from else"):
            models.load_model(source)
    assert not asked
    monkeypatch.chdir(copy / "model")
    for source in (".", copy, copy / "model"):
        with pytest.raises(ZeroDivisionError):
            models.load_model(source)
    assert asked == ["ann/evil"] * 3


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda folder: change(folder, temperature=2.0), r"checksums\.json, line \d+: model\.json has another SHA-256"),
    (lambda folder: (folder / "encoder" / "more.json").write_text("{}"), "more.json is not listed in checksums.json"),
    (lambda folder: (folder / "hyperparams.yaml").unlink(), "hyperparams.yaml is missing; checksums.json lists it"),
    (lambda folder: (folder / "checksums.json").unlink(), "holds no checksums.json"),
    (lambda folder: (folder / "checksums.json").write_text('{"../x": "0"}'), "is missing; checksums.json lists it"),
])
def test_checksums_find_damage(folder, spoil, message):
    spoil(folder)
    with pytest.raises(DataError, match=message):
        models.load_model(folder)


def test_a_readme_may_be_edited(folder):
    (folder / "README.md").write_text("# Mine\n")
    assert models.load_model(folder).labels == LABELS


# YAML


def bomb():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)])


YAMLS = {  # the text, {marker} being where it tries to make a folder → what is said
    "!apply": ("a: 1\nb: !apply:os.mkdir [{marker}]", r"yaml, line 2: '!apply:os\.mkdir' is refused"),
    "!apply of an allowed name": ("b: !apply:torch.optim.Adam [{marker}]", "'!apply:torch.optim.Adam' is refused"),
    "!applyref": ("b: !applyref:os.mkdir [{marker}]", "line 1: '!applyref:os.mkdir' is refused"),
    "!new": ("b:\n  c:\n  - !new:subprocess.Popen [[mkdir, {marker}]]", r"line 3: '!new:subprocess\.Popen' is refused"),
    "!name": ("b: !name:os.mkdir [{marker}]", "line 1: '!name:os.mkdir' is refused"),
    "!name by a way round": ("b: !name:torch.nn.modules.module.torch.load [x]", "is neither a registered plugin's"),
    "!new of a function": ("b: !new:torch.nn.functional.relu []", "'!new:torch.nn.functional.relu' is refused"),
    "!new of a base that is none": ("b: !new:torch.nn.Parameter []", "'!new:torch.nn.Parameter' is refused"),
    "!module": ("b: !module:os", "'!module:os' is refused"),
    "!include": ("b: !include:/etc/passwd", "'!include:/etc/passwd' is refused"),
    "!include above": ("b: !include:../../x.yaml\n  a: 1", r"'!include:\.\./\.\./x\.yaml' is refused"),
    "!ref": ("a: 1\nb: !ref <a.__class__>", "line 2: '!ref' is refused"),
    "!copy": ("a: 1\nb: !copy <a>", "'!copy' is refused"),
    "arithmetic without end": ("a: !ref 9**9**9**9 + <b>\nb: 1", "'!ref' is refused"),
    "a tuple": ('b: (!!python/object/apply:os.mkdir ["{marker}"])', "line 1: .* would be read as a tuple"),
    "a tuple in quotes": ("b: '(!!python/object/apply:os.mkdir [\"{marker}\"])'", "would be read as a tuple"),
    "a tuple as a key": ('? (!!python/object/apply:os.mkdir ["{marker}"])\n: 1', "would be read as a tuple"),
    "python/object/apply": ("b: !!python/object/apply:os.mkdir [{marker}]", r"apply:os\.mkdir' is refused"),
    "python/name": ("b: !!python/name:os.system", "python/name:os.system' is refused"),
    "python/object/new": ("b: !!python/object/new:os.mkdir [{marker}]", "is refused"),
    "a tag spelt out": ("b: !<tag:yaml.org,2002:python/object/apply:os.mkdir> [{marker}]", "is refused"),
    "a directive": ("%TAG ! tag:yaml.org,2002:python/object/\n---\nb: !apply:os.mkdir [{marker}]",
                    "line 3: .* is refused"),
    "a tag on a key": ("? !apply:os.mkdir [{marker}]\n: 1", "line 1: '!apply:os.mkdir' is refused"),
    "a tag behind an anchor": ("a: &x !apply:os.mkdir [{marker}]\nb: *x", "line 1: '!apply:os.mkdir' is refused"),
    "a tag in a merge": ("b:\n  <<: !new:os.mkdir {{path: {marker}}}", "line 2: '!new:os.mkdir' is refused"),
    "binary": ("b: !!binary aGk=", "binary' is refused"),
    "an alias bomb": (bomb(), "more than 20000 values, each alias counted"),
    "an alias within itself": ("a: &a [*a]", "line 1: nested more than 50 deep"),
    "deep nesting": ("a: " + "[" * 60 + "]" * 60, "nested more than 50 deep"),
    "an anchor that is not there": ("a: *b", "line 1: no YAML: found undefined alias"),
    "two documents": ("a: 1\n---\nb: !apply:os.mkdir [{marker}]", "line 2: no YAML"),
    "a list": ("- 1", "holds no mapping"),
    "nothing": ("", "holds no mapping"),
    "no YAML": ("a: [1", "line 1: no YAML|line 2: no YAML"),
    "any size": ("a: " + "x" * 1_000_001, "hyperparameters have at most 1000000"),
}


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_that_is_code_is_refused(tmp_path, name):
    template, message = YAMLS[name]
    path = tmp_path / "hyperparams.yaml"
    path.write_text(template.format(marker=tmp_path / "marker") if "{marker}" in template else template)
    with pytest.raises(DataError, match=message):
        safe_yaml.check(path)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["!apply", "a tuple", "python/object/apply", "!name", "a tag behind an anchor"])
def test_a_folder_with_such_yaml_is_refused(folder, tmp_path, name):
    (folder / "hyperparams.yaml").write_text(YAMLS[name][0].format(marker=tmp_path / "marker"))
    folder_check.write_checksums(folder)
    with pytest.raises(DataError, match=YAMLS[name][1]):
        EmotionRecognizer.from_hparams(source=folder)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["!apply", "a tuple", "python/object/apply"])
def test_hyperpyyaml_would_have_run_them(tmp_path, name):
    """The attacks are real: what the check refuses makes the marker where nothing checks."""
    (tmp_path / "evil.yaml").write_text(YAMLS[name][0].format(marker=tmp_path / "marker"))
    with open(tmp_path / "evil.yaml", encoding="utf-8") as file:
        load_hyperpyyaml(file)
    assert (tmp_path / "marker").is_dir()
    (tmp_path / "marker").rmdir()
    with pytest.raises(DataError, match=YAMLS[name][1]):  # also after HyperPyYAML has changed ruamel's resolvers
        safe_yaml.check(tmp_path / "evil.yaml")
    assert not (tmp_path / "marker").exists()


def test_a_pickle_of_the_attacks_runs_where_it_is_read(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "marker")))
    assert (tmp_path / "marker").is_dir()


def test_known_yaml_passes(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "lr: 1e-4\nyes: yes\npair: (1, two)\nlayer: !new:torch.nn.Linear [2, 3]\nbase: &b {x: 1}\nown:\n  <<: *b\n"
        "head: !name:ser_plugins.heads.mp.MeanPooling\n  layer: 2\n")
    safe_yaml.check(tmp_path / "a.yaml")


def test_runs_of_another_layout_have_their_yaml_shared(tmp_path):
    (tmp_path / "h.yaml").write_text("lr: 0.1\nstore_folder: /srv/ann\nencoder: x\n")
    assert shared_yaml(tmp_path / "h.yaml", "encoder").splitlines()[1:] == ["lr: 0.1", "encoder: encoder"]


# Networks and their files


class Wide(Head):
    needs = Needs()

    def __init__(self, size):
        super().__init__()
        self.layer = torch.nn.Linear(size, size)

    def forward(self, inputs):
        raise NotImplementedError


def test_a_network_is_built_within_what_its_file_holds(tmp_path):
    save_file({"layer.weight": torch.zeros(100, 100), "layer.bias": torch.zeros(100)}, tmp_path / "w.safetensors")
    with bounded(tmp_path / "w.safetensors"):
        assert Wide(100).layer.weight.shape == (100, 100)
    for build in (lambda: Wide(1_000_000), lambda: [torch.nn.Linear(1, 1) for _ in range(100_000)]):
        with pytest.raises(DataError, match=r"w\.safetensors holds \d+ (values|tensors)"), bounded(
                tmp_path / "w.safetensors"):
            build()
    assert Wide(300).layer.weight.shape == (300, 300)  # the limit has gone


def test_what_another_thread_builds_is_not_counted(tmp_path):
    save_file({"layer.bias": torch.zeros(1)}, tmp_path / "w.safetensors")
    with bounded(tmp_path / "w.safetensors"), ThreadPoolExecutor(1) as other:
        built = other.submit(lambda: [torch.nn.Linear(200, 200) for _ in range(200)])
        assert len(built.result()) == 200
        with pytest.raises(DataError, match=r"holds 1 tensors"):
            torch.nn.Sequential(*[torch.nn.Identity()] * 200)


# The hub


class Hub:
    """Stands for huggingface_hub: a cache with the client's layout, and a list of what is asked."""

    def __init__(self, root, exported):
        self.asked, self.folder = [], root / "models--ann--ser" / "snapshots" / "abc"
        blobs = root / "models--ann--ser" / "blobs"
        blobs.mkdir(parents=True)
        for number, path in enumerate(path for path in exported.rglob("*") if path.is_file()):
            shutil.copyfile(path, blobs / str(number))
            link = self.folder / path.relative_to(exported)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blobs / str(number), link.parent))

    def snapshot_download(self, repository, revision=None, allow_patterns=None):
        self.asked.append((repository, revision, allow_patterns))
        if repository != "ann/ser":
            raise OSError("404 Client Error.\nRepository Not Found")
        return str(self.folder)

    def HfApi(self):
        return self

    def create_repo(self, repository, **options):
        self.asked.append(("create", repository, options))

    def upload_folder(self, **options):
        self.asked.append(("upload", options))
        return type("Commit", (), {"commit_url": f"https://hub/{options['repo_id']}/commit/1"})


@pytest.fixture
def remote(exported, tmp_path, monkeypatch):
    fake = Hub(tmp_path, exported)
    monkeypatch.setattr(hub, "_client", lambda: fake)
    return fake


def test_a_source_may_be_on_the_hub(remote, exported, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert torch.equal(classify("ann/ser@v1"), classify(exported))
    assert remote.asked == [("ann/ser", "v1", list(folder_check.FILES))]


@pytest.mark.parametrize("source", ["ann/sir", "ann/ser"])
def test_a_source_that_the_hub_has_not_or_that_is_no_export(remote, source):
    path = remote.folder / "model.json"
    content = json.loads(path.read_text())
    del content["format"]
    path.unlink()
    path.write_text(json.dumps(content))
    message = "'ann/sir' is no folder here, .* 404 Client Error" if source == "ann/sir" else "has no 'format'"
    with pytest.raises(DataError, match=message):
        models.load_model(source)


def test_a_link_out_of_the_hubs_cache_is_refused(remote, tmp_path):
    (tmp_path / "secret").write_text("x")
    (remote.folder / "README.md").unlink()
    (remote.folder / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="out of the model folder"):
        models.load_model("ann/ser")


def test_without_a_network_a_push_is_refused_in_a_sentence(remote, exported, monkeypatch, capsys):
    class Unreachable(Exception):
        """What httpx raises is no OSError."""

    def refuse(*_, **__):
        raise Unreachable("[Errno -2] Name or service not known\nmore")

    Unreachable.__module__ = "httpx"
    monkeypatch.setattr(remote, "create_repo", refuse)
    assert cli.main(["push", str(exported), "ann/ser"]) == 2
    assert "could not be uploaded to 'ann/ser': [Errno -2] Name or service not known; is" in capsys.readouterr().err


def test_push_uploads_what_its_readers_accept(remote, exported, run, capsys):
    assert cli.main(["push", str(exported), "ann/ser", "--private"]) == 0
    assert capsys.readouterr().out.strip() == "https://hub/ann/ser/commit/1"
    assert remote.asked[0] == ("create", "ann/ser", {"private": True, "exist_ok": True})
    assert remote.asked[1][1]["folder_path"] == str(exported)
    assert remote.asked[1][1]["allow_patterns"] == list(folder_check.FILES)
    for words, message in ((["push", str(run), "ann/ser"], "is a run's own folder"),
                           (["push", str(exported), "ser"], "'ser' is no repository's id"),
                           (["push", str(exported) + "-", "ann/ser"], "is no folder; ser export")):
        assert cli.main(words) == 2
        assert message in capsys.readouterr().err
    assert len(remote.asked) == 2


def test_push_uploads_the_very_folder_that_was_checked(remote, folder):
    (folder.parent / "other.json").write_text("{}")  # the outer folder is not for others
    assert cli.main(["push", str(folder.parent), "ann/ser"]) == 0
    assert remote.asked[1][1]["folder_path"] == str(folder)


def test_a_hub_that_refuses_and_one_that_is_not_installed(remote, exported, monkeypatch):
    def refuse(*_, **__):
        raise OSError("401 Client Error: Unauthorized")

    remote.create_repo = refuse
    with pytest.raises(DataError, match=r"could not be uploaded to 'ann/ser': 401 .* is there a token"):
        push_model(exported, "ann/ser")
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(OptionError, match=r"need huggingface_hub: pip install 'ser_plugins\[hub\]'"):
        models.load_model("ann/ser")
