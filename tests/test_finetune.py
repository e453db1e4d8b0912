"""Encoder layers that are trained with a head: what the copies compute, what learns, and what a run leaves."""

import copy
import csv
import json
from pathlib import Path

import pytest
import torch
import train_ser
from safetensors.torch import load_file

from ser_plugins import cli, inference, models, onnx_export, protocol, registry
from ser_plugins.contracts import Encoder, HeadInputs, Needs
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.errors import DataError, OptionError
from ser_plugins.finetune import FineTuned, finetuned
from ser_plugins.folds import Fold
from ser_plugins.heads.rnn import RNN
from ser_plugins.testing import check_head
from ser_plugins.testing.rules import speech

LABELS = ["anger", "happiness", "neutral", "sadness"]


def recogniser(**architecture):
    torch.manual_seed(0)
    encoder = DeepSpeech2(**{"units": 8, "num_layers": 4, "channels": 2, "vocabulary": 11, **architecture})
    for norm in (part for part in encoder.modules() if hasattr(part, "running_var")):
        norm.running_var.uniform_(0.5, 2)  # a trained one's are not 1, and its means not 0
        norm.running_mean.normal_()
    return encoder.freeze()


@pytest.fixture(scope="module")
def encoder():
    return recogniser()


def head_of(encoder, name, options):
    torch.manual_seed(1)
    head = registry.create("heads", name, options, {
        "feature_dim": 7, "layer_dims": encoder.layer_dims, "vocabulary": 11, "num_classes": 4}).eval()
    defaults = {key: argument.default for key, argument in registry.arguments(type(head)).items()}
    return head, head.needs.resolve({**defaults, **options}, len(encoder.layer_dims))


class Everything(torch.nn.Module):
    """Reads frames and means of layers on both sides of the split."""

    def forward(self, inputs):
        assert set(inputs.sequences) == {1, 4}
        assert set(inputs.means) == {2, 3}
        means = [*inputs.means.values(), *(frames.mean() for frames in inputs.sequences.values())]
        return torch.stack([mean.sum(dim=1) for mean in means], dim=1)


def rounded(inputs):
    return HeadInputs(inputs.features, {layer: type(frames)(frames.data.half().float(), frames.lengths, frames.rate)
                                        for layer, frames in inputs.sequences.items()}, inputs.means, inputs.log_probs)


@pytest.mark.parametrize("architecture", [{}, {"cell": "lstm", "representation": "summed"}], ids=["gru", "lstm"])
@pytest.mark.parametrize(("name", "options", "count"), [
    ("rnn", {"layer": 4, "units": 4}, 1), ("rnn", {"layer": 3, "units": 4}, 2), ("mp", {"layer": 4}, 3),
    ("weighted_layers", {}, 2)])
def test_untrained_copies_give_what_the_frozen_layers_give(architecture, name, options, count):
    encoder = recogniser(**architecture)
    head, needs = head_of(encoder, name, options)
    wrapper = finetuned(head, needs, encoder, count).eval()
    encoding = encoder(*speech())
    with torch.no_grad():
        wanted = head(needs.take(None, encoding))
        inputs = wrapper.needs.take(None, encoding)
        torch.testing.assert_close(wrapper(inputs), wanted, rtol=0, atol=1e-5)
        # the store rounds the layer below to 11 bits; without the copies' own rounding the difference stays in reason
        torch.testing.assert_close(wrapper(rounded(inputs)), wanted, rtol=0, atol=2e-3)


def test_the_head_gets_what_it_asked_for_from_both_sides_of_the_split(encoder):
    needs = Needs(sequences=(1, 4), means=(2, 3))
    wrapper = finetuned(Everything(), needs, encoder, 2)
    assert wrapper.needs == Needs(sequences=(1, 2), means=(2,))
    encoding = encoder(*speech())
    with torch.no_grad():
        torch.testing.assert_close(wrapper(wrapper.needs.take(None, encoding)),
                                   Everything()(needs.take(None, encoding)), rtol=0, atol=1e-5)


def test_layers_above_the_highest_that_is_read_are_not_copied(encoder):
    head, needs = head_of(encoder, "mp", {"layer": 3})
    assert len(finetuned(head, needs, encoder, 3).layers) == 2


class Checked(FineTuned):
    """As a plugin that can be built from sizes alone."""

    needs = Needs(sequences=(2,))

    def __init__(self, layer_dims, num_classes):
        head = RNN(layer_dims, num_classes, layer=4, units=4)
        super().__init__(head, Needs(sequences=(4,)), recogniser(units=layer_dims[0] // 2).top(2), 2)


def test_the_contract_of_heads_holds():
    check_head(Checked)


def test_gradients_reach_the_copies_and_nothing_else_learns(encoder):
    before = copy.deepcopy(encoder.state_dict())
    head, needs = head_of(encoder, "rnn", {"layer": 4, "units": 4})
    wrapper = finetuned(head, needs, encoder, 2).train()
    buffers = {name: value.clone() for name, value in wrapper.layers.named_buffers()}
    optimizer = torch.optim.SGD(wrapper.parameters(), lr=1.0)
    encoding = encoder(*speech())
    torch.nn.functional.cross_entropy(wrapper(wrapper.needs.take(None, encoding)), torch.tensor([0, 1, 2])).backward()
    assert buffers
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in wrapper.parameters())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    optimizer.step()
    mine, theirs = wrapper.layers[0].recurrent.forwards, encoder.recurrent[2].forwards
    assert not torch.equal(mine.weight_hh_l0, theirs.weight_hh_l0)
    for name, value in wrapper.layers.named_buffers():
        torch.testing.assert_close(value, buffers[name], rtol=0, atol=0)
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


class Whole(Encoder):
    layer_dims, rate, fingerprint = (4, 4, 4), 50.0, "x"
    from_pretrained = forward = decode = None


@pytest.mark.parametrize(("name", "options", "count", "message"), [
    ("mp", {"layer": 4}, 4, "finetune_layers 4: the encoder has 4 layers, and the first one stays frozen; 0 to 3 can"),
    ("mp", {"layer": 2}, 2, "finetune_layers 2 trains layers 3 to 4 of the encoder, and the head reads layer 2: give"),
    ("baseline", {}, 1, "trains layers 4 to 4 of the encoder, and the head reads no layer"),
    ("linguistic", {}, 1, "and the head reads no layer"),
])
def test_what_cannot_be_trained_is_refused(encoder, name, options, count, message):
    head, needs = head_of(encoder, name, options)
    with pytest.raises(OptionError, match=message):
        finetuned(head, needs, encoder, count)


def test_an_encoder_without_a_split_point_is_refused():
    with pytest.raises(OptionError, match=r"encoder Whole has no split point \(a method 'top'\)"):
        finetuned(torch.nn.Identity(), Needs(means=(3,)), Whole(), 1)


@pytest.mark.parametrize(("words", "message"), [
    (("--finetune_layers", "-1"), "--finetune_layers -1: it must be 0 or more"),
    (("--finetune_layers", "1.5"), "--finetune_layers: 1.5 is not a whole number"),
    (("--finetune_layers", "3", "--layer", "3"), "the encoder has 3 layers, and the first one stays frozen; 0 to 2"),
    (("--finetune_layers", "1"), "trains layers 3 to 3 of the encoder, and the head reads layer 2"),
    (("--finetune_layers", "1", "--finetune_lr", "-0.1"), "--finetune_lr -0.1: it must be 0 or more"),
    (("--finetune_lr", "0.1"), "--finetune_lr is the learning rate of layers that --finetune_layers chooses"),
    (("--finetune_layer", "1"), "finetune_layers"),
])
def test_the_recipe_refuses(train, tmp_path, words, message):
    with pytest.raises(OptionError, match=message):
        train("rnn", tmp_path, *words)


WORDS = ("--layer", "3", "--finetune_layers", "2", "--tempi", "[]", "--batch_size", "8")


@pytest.fixture(scope="module")
def run(train, tmp_path_factory):
    """The folder of a run of three epochs whose learning rates fall after each."""
    return train("rnn", tmp_path_factory.mktemp("finetuned"), *WORDS, "--number_of_epochs", "3")


def table(folder):
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_is_named_and_stamped_by_what_it_trains(run, tiny_encoder):
    assert run.parts[-3] == "rnn-3-finetuned2"
    settings = json.loads((run / "settings.json").read_text())
    assert (settings["finetune_layers"], settings["finetune_lr"]) == (2, 0.0004)
    assert json.loads((run / "model/model.json").read_text())["finetune_layers"] == 2
    stored, source = load_file(run / "model/head.safetensors"), load_file(tiny_encoder / "weights.safetensors")
    name = "recurrent.{}.forwards.weight_hh_l0"
    for number, layer in enumerate((1, 2)):
        learnt, was = stored[f"layers.{number}.recurrent.forwards.weight_hh_l0"], source[name.format(layer)].float()
        assert 0 < (learnt - was).abs().max() < 0.1
    stock = run.parents[3] / "store"
    assert {path.name for path in stock.glob("*/*") if path.is_dir()} == {"layer1"}


def test_the_encoder_that_runs_share_is_as_it_was(run, tiny_encoder):
    content = json.loads((run / "model/model.json").read_text())
    shared = protocol.encoder_of(str(tiny_encoder))  # the object that the run took its copies from
    assert shared.fingerprint == models.load_encoder(tiny_encoder).fingerprint == content["encoder_fingerprint"]
    assert not any(module.training for module in shared.modules())
    assert not any(parameter.requires_grad for parameter in shared.parameters())


@pytest.mark.parametrize(("words", "kept"), [((), set()), (WORDS[:4], {"finetune_layers", "finetune_lr"})])
def test_settings_without_it_are_those_of_before(tiny_encoder, words, kept):
    exp = train_ser.load([str(Path(__file__).parents[1] / "hparams/rnn.yaml"), "--encoder", str(tiny_encoder), *words])
    settings = protocol.run_settings(exp, train_ser.build(exp), [], Fold("a", "b", ("c",)))
    assert {"finetune_layers", "finetune_lr"} & settings.keys() == kept


def test_inference_gives_the_test_stages_probabilities(run, synthetic_rows):
    recognizer = inference.EmotionRecognizer.from_hparams(source=run)
    paths = {row.id: row.path for row in synthetic_rows}
    for row in table(run)[:4]:
        found = recognizer.classify_file(paths[row["id"]])[0][0].exp().tolist()
        assert found == pytest.approx([float(row[f"p_{label}"]) for label in LABELS], abs=1e-3)


def test_a_run_that_was_ended_goes_on(train, run, tmp_path, monkeypatch):
    """Ended after its first epoch, it gives the predictions of the undisturbed one: both groups of weights resume."""
    end = train_ser.SERBrain.on_stage_end

    def ending(self, stage, stage_loss, epoch=None):
        end(self, stage, stage_loss, epoch)
        if stage == train_ser.sb.Stage.VALID:
            raise KeyboardInterrupt

    words = (*WORDS, "--number_of_epochs", "3", "--store_folder", run.parents[3] / "store")
    with monkeypatch.context() as patch:
        patch.setattr(train_ser.SERBrain, "on_stage_end", ending)
        with pytest.raises(KeyboardInterrupt):
            train("rnn", tmp_path, *words)
    assert (train("rnn", tmp_path, *words) / "predictions.csv").read_bytes() == (run / "predictions.csv").read_bytes()


@pytest.fixture
def rates(monkeypatch):
    """The learning rates of both groups after each epoch."""
    kept, end = [], train_ser.SERBrain.on_stage_end

    def keeping(self, stage, stage_loss, epoch=None):
        end(self, stage, stage_loss, epoch)
        if stage == train_ser.sb.Stage.VALID:
            kept.append([group["lr"] for group in self.optimizer.param_groups])

    monkeypatch.setattr(train_ser.SERBrain, "on_stage_end", keeping)
    return kept


def test_both_rates_anneal_in_proportion(train, run, tmp_path, rates, monkeypatch):
    monkeypatch.setattr(train_ser.sb.nnet.schedulers.ReduceLROnPlateau, "__call__",
                        lambda self, optimizers, epoch, loss: (optimizers[0].param_groups[0]["lr"], 0.004 / 2**epoch))
    train("rnn", tmp_path, *WORDS, "--number_of_epochs", "2", "--store_folder", run.parents[3] / "store")
    assert rates == [pytest.approx([0.002, 0.0002]), pytest.approx([0.001, 0.0001])]


def test_at_rate_0_the_copies_stay_the_encoders(train, run, tmp_path, tiny_encoder, rates):
    folder = train("rnn", tmp_path, *WORDS, "--number_of_epochs", "1", "--finetune_lr", "0", "--store_folder",
                   run.parents[3] / "store")
    assert rates == [[0.004, 0]]
    model = models.load_model(folder)
    for mine, theirs in zip(model.head.layers[1].recurrent.parameters(), model.encoder.recurrent[2].parameters(),
                            strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    encoding = model.encoder(*speech())
    with torch.no_grad():
        torch.testing.assert_close(model.head(model.needs.take(None, encoding)),
                                   model.head.head(HeadInputs(sequences={3: encoding.layers[2]})), rtol=0, atol=1e-5)


def test_an_exported_run_is_the_run(run, synthetic_rows, tmp_path):
    out = tmp_path / "out"
    onnx = [] if onnx_missing() else ["--onnx"]
    assert cli.main(["export", str(run), str(out), *onnx]) == 0
    found, wanted = (inference.EmotionRecognizer.from_hparams(source=source).classify_file(synthetic_rows[0].path)[0]
                     for source in (out, run))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert "copies of the recogniser's last 2 layers" in (out / "README.md").read_text()
    if onnx:
        waveforms, lengths = onnx_export.speech((20000, 9000))
        emotions = onnx_export.run(onnx_export.session(str(out / "model.onnx")), waveforms, lengths)[2]
        model = models.load_model(out)
        said = inference.EmotionRecognizer.from_hparams(source=out).classify_batch(waveforms, lengths / 20000)[0]
        torch.testing.assert_close(emotions, (said / (model.temperature or 1)).log_softmax(dim=1), rtol=0, atol=1e-4)


def onnx_missing():
    try:
        onnx_export._packages()
    except OptionError:
        return True
    return False


@pytest.mark.parametrize(("value", "error", "message"), [
    (0, DataError, r"model\.json, line \d+: finetune_layers must be a number of layers, not 0"),
    (True, DataError, "must be a number of layers, not True"),
    ("2", DataError, "must be a number of layers, not '2'"),
    (3, OptionError, r"model\.json, line \d+: finetune_layers 3: the encoder has 3 layers"),
    (1, DataError, r"head\.safetensors does not fit"),
    (None, DataError, "must be a number of layers, not None"),
])
def test_a_model_folder_that_names_other_layers_is_refused(run, tmp_path, value, error, message):
    for name in ("model.json", "head.safetensors"):
        (tmp_path / name).write_bytes((run / "model" / name).read_bytes())
    content = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**content, "finetune_layers": value}, indent=2))
    with pytest.raises(error, match=message):
        models.load_model(tmp_path)
