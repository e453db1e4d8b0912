"""Every registered plugin keeps its contract, and a plugin that breaks a rule is told which."""

import copy
import json

import pytest
import torch
from torch import nn

from ser_plugins import registry, testing
from ser_plugins.contracts import (
    SAMPLE_RATE,
    Corpus,
    Encoder,
    Encoding,
    FeatureExtractor,
    Frames,
    Head,
    Needs,
    Utterance,
    fingerprint,
)
from ser_plugins.errors import DataError, PluginError
from ser_plugins.heads.mp import MeanPooling

SMALLER = {"synthetic": {"speakers": 3, "sentences": 1}}  # it makes its audio, which takes a while


@pytest.mark.parametrize("name", registry.installed("heads"))
def test_heads(name):
    testing.check("heads", name)


@pytest.mark.parametrize("layer", [1, 5])
@pytest.mark.parametrize("name", ["mp", "rnn", "progressive"])
def test_heads_on_other_layers(name, layer):
    testing.check_head(name, {"layer": layer})


@pytest.mark.parametrize("name", registry.installed("features"))
def test_features(name):
    testing.check("features", name)


@pytest.mark.parametrize("options", [{"power": True}, {"normalize": "global"}, {"normalize": "none"}])
def test_spectrogram_with_options(options):
    testing.check_features("spectrogram", options)


def test_mfcc_pitch_with_the_free_tracker():
    testing.check_features("mfcc_pitch", {"pitch": "yin"})


@pytest.mark.parametrize("name", registry.installed("encoders"))
def test_encoders(name):
    if name == "huggingface":
        pytest.importorskip("transformers", reason="transformers is missing: pip install 'ser_plugins[huggingface]'")
    testing.check("encoders", name)


@pytest.mark.parametrize("name", registry.installed("corpora"))
def test_corpora(name):
    testing.check_corpus(name, SMALLER.get(name))


def test_check_refuses_an_unknown_group_and_an_unknown_name():
    with pytest.raises(PluginError, match="no plugin group 'head'; did you mean 'heads'"):
        testing.check("head", "mp")
    with pytest.raises(PluginError, match="no head 'mpp'; did you mean 'mp'"):
        testing.check("heads", "mpp")


def test_a_check_leaves_the_random_generator_as_it_was():
    before = torch.random.get_rng_state()
    testing.check_head("baseline")
    assert torch.equal(torch.random.get_rng_state(), before)


# Heads that break a rule


class Good(Head):
    """Mean pooling of features; the broken heads below differ in one thing each."""

    needs = Needs(features=True)

    def __init__(self, feature_dim: int, num_classes: int, dropout: float = 0.25):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(feature_dim, num_classes)

    def pool(self, frames):
        return frames.mean()

    def forward(self, inputs):
        return self.output(self.dropout(self.pool(inputs.features)))


class SwallowsOptions(Good):
    def __init__(self, feature_dim, num_classes, **options):
        super().__init__(feature_dim, num_classes)


class ListsOptions(Good):
    def __init__(self, *sizes):
        super().__init__(*sizes)


class WantsAnOption(Good):
    def __init__(self, feature_dim, num_classes, units):
        super().__init__(feature_dim, num_classes)


class HasNoNeeds(Good):
    needs = ["features"]  # noqa: RUF012 as a stranger may write it


class NeedsNothing(Good):
    needs = Needs()


class NeedsAnArgumentItHasNot(Good):
    needs = Needs(features=True, means="layer")


class LeaksPadding(Good):
    def pool(self, frames):
        return frames.data.mean(dim=1)


class LeaksOtherUtterances(Good):
    def pool(self, frames):
        return frames.mean() - frames.mean().mean(dim=0)


class CountsFrames(Good):
    def pool(self, frames):
        return frames.mean() + 0.01 * frames.data.shape[1]


class ForgetsClasses(Good):
    def __init__(self, feature_dim, num_classes):
        super().__init__(feature_dim, 3)


class GivesProbabilitiesPerFrame(Good):
    def pool(self, frames):
        return frames.data


class GivesNaN(Good):
    def pool(self, frames):
        return frames.data.sum(dim=1) / (frames.lengths - 1).unsqueeze(1)


class GivesLabels(Good):
    def forward(self, inputs):
        return super().forward(inputs).long()


class AddsNoise(Good):
    def pool(self, frames):
        return frames.mean() + 1e-3 * torch.randn(len(frames.data), frames.data.shape[2])


class KeepsDropout(Good):
    def pool(self, frames):
        return nn.functional.dropout(frames.mean(), 0.5)


class ChangesInputs(Good):
    def pool(self, frames):
        mean = frames.mean()
        frames.data.zero_()
        return mean


class ChangesInputsInTraining(Good):
    def pool(self, frames):
        if self.training:
            frames.data.mul_(1.1)
        return frames.mean()


class HasUnusedWeights(Good):
    def __init__(self, feature_dim: int, num_classes: int):
        super().__init__(feature_dim, num_classes)
        self.spare = nn.Linear(2, 2)


class HasInfiniteGradients(Good):
    def pool(self, frames):
        weights = self.output.weight[0] - self.output.weight[0].detach()  # the root of zero has no slope
        return frames.mean() + weights.abs().sqrt()


class HasNoSlope(Good):
    def forward(self, inputs):
        return super().forward(inputs).sign() + 0 * super().forward(inputs)


class TrainsNothing(Good):
    def __init__(self, feature_dim: int, num_classes: int):
        super().__init__(feature_dim, num_classes)
        self.requires_grad_(False)


class HidesWeights(Good):
    def __init__(self, feature_dim: int, num_classes: int):
        super().__init__(feature_dim, num_classes)
        self.shift = torch.randn(feature_dim)  # no buffer, so that a checkpoint lacks it

    def pool(self, frames):
        return frames.mean() + self.shift


class CannotBePickled(Good):
    def __init__(self, feature_dim: int, num_classes: int):
        super().__init__(feature_dim, num_classes)
        self.pool = lambda frames: frames.mean()


class Fails(Good):
    def pool(self, frames):
        return frames.data[:, 5]


@pytest.mark.parametrize(("head", "finding"), [
    (SwallowsOptions, "'The constructor names every argument, and every option has a default': "
                      "'**options' swallows misspelt options"),
    (ListsOptions, "'*sizes' leaves arguments without names"),
    (WantsAnOption, "option 'units' has no default"),
    (HasNoNeeds, "'`needs` is a class attribute of type Needs that names features, existing layers or log_probs': "
                 "`needs` is ['features']"),
    (NeedsNothing, "asks for nothing"),
    (NeedsAnArgumentItHasNot, "it raises KeyError: 'layer'"),
    (LeaksPadding, "'An utterance has the same logits alone, in a batch, and beside a longer one': "
                   "logits of an utterance of 9 frames, alone and in a batch, differ by 0."),
    (LeaksOtherUtterances, "logits of an utterance of 23 frames, alone and in a batch, differ by "),
    (CountsFrames, "logits of an utterance of 9 frames, alone and in a batch, differ by "),
    (ForgetsClasses, "'Logits are finite floats of shape [batch, classes]': "
                     "the shape is [4, 3] for 4 utterances and 5 classes"),
    (GivesProbabilitiesPerFrame, "the shape is [4, 23, 3] for 4 utterances and 3 classes"),
    (GivesNaN, "3 of 12 are not finite"),
    (GivesLabels, "they are torch.int64"),
    (AddsNoise, "'In evaluation mode the same inputs give the same logits': logits of two calls differ by "),
    (KeepsDropout, "logits of two calls differ by "),
    (ChangesInputs, "logits of two calls differ by "),
    (ChangesInputsInTraining, "'The inputs are not modified': a tensor of shape [4, 23, 7] has changed"),
    (HasUnusedWeights, "'Finite gradients reach every trainable parameter, and not all of them are zero': "
                       "no gradient reaches spare.weight, spare.bias"),
    (HasInfiniteGradients, "the gradient of output.weight is not finite"),
    (HasNoSlope, "every gradient is zero: nothing is learned"),
    (TrainsNothing, "no parameter is trainable"),
    (HidesWeights, "'A head that loads another's state_dict gives the other's logits': logits of the two differ by "),
    (CannotBePickled, "'A pickled head and a deep copy give the same logits': it raises "),
    (Fails, "it raises IndexError: "),
])
def test_a_broken_head_is_told_the_rule(head, finding):
    with pytest.raises(PluginError) as caught:
        testing.check_head(head)
    assert str(caught.value).startswith(f"head '{head.__name__}' breaks the rule '")
    assert finding in str(caught.value)


def test_the_head_that_they_vary_keeps_the_contract():
    testing.check_head(Good)


def test_a_class_of_another_kind_is_refused():
    with pytest.raises(PluginError, match=r"head 'Linear' is no subclass of ser_plugins\.contracts\.Head"):
        testing.check_head(nn.Linear)
    with pytest.raises(PluginError, match="encoder 'MeanPooling' is no subclass"):
        testing.check_encoder(MeanPooling((4,), 2, layer=1))


# A small feature extractor, and some that break a rule


class Levels(FeatureExtractor):
    """Mean magnitude, or power, of the four quarters of each 10 ms."""

    dim = 4
    rate = 100.0

    def __init__(self, squared: bool = False):
        super().__init__()
        self.squared = squared

    def forward(self, waveforms, lengths):
        data = nn.functional.pad(waveforms, (0, -waveforms.shape[1] % 160)).unflatten(1, (-1, 4, 40))
        return Frames((data**2 if self.squared else data.abs()).mean(dim=3), (lengths + 159) // 160, 100.0).masked()

    def settings(self):
        return {"squared": self.squared}


class LoudSilence(Levels):
    def forward(self, waveforms, lengths):
        frames = super().forward(waveforms, lengths)
        peaks = waveforms.abs().amax(dim=1)[:, None, None]
        return Frames(frames.data / peaks, frames.lengths, frames.rate)


class NormalisesOverTheBatch(Levels):
    def forward(self, waveforms, lengths):
        return super().forward(waveforms / waveforms.std(), lengths)


class LeavesPadding(Levels):
    def forward(self, waveforms, lengths):
        frames = super().forward(waveforms, lengths)
        return Frames(frames.data + 1, frames.lengths, frames.rate)


class MissesItsDim(Levels):
    dim = 5


class MissesItsRate(Levels):
    rate = 50.0


class CountsTooMany(Levels):
    rate = 40.0

    def forward(self, waveforms, lengths):
        frames = super().forward(waveforms, lengths)
        return Frames(frames.data, frames.lengths, 40.0)


class FailsOnShortAudio(Levels):
    def forward(self, waveforms, lengths):
        if waveforms.shape[1] < 1000:
            raise RuntimeError("kernel size can't be greater than actual input size")
        return super().forward(waveforms, lengths)


class RefusesShortAudio(Levels):
    def forward(self, waveforms, lengths):
        if waveforms.shape[1] < 1000:
            raise DataError("too short")
        return super().forward(waveforms, lengths)


class ForgetsASetting(Levels):
    def settings(self):
        return {"version": 1}


class HasAStaleFingerprint(Levels):
    @property
    def fingerprint(self):
        return "0"


class HasAFleetingFingerprint(Levels):
    @property
    def fingerprint(self):
        return str(id(self))


class SettingsAreNoJSON(Levels):
    def settings(self):
        return {**super().settings(), "quarters": (1, 2, 3, 4)}


@pytest.mark.parametrize(("extractor", "finding"), [
    (LoudSilence, "'Digital silence gives finite frames': the output: 200 values are not finite"),
    (NormalisesOverTheBatch, "'An utterance has the same frames alone, in a batch, and under longer padding': "
                             "frames of utterance 1, "),
    (LeavesPadding, "420 values beyond the lengths are not zero"),
    (MissesItsDim, "the output: data has shape [3, 110, 4], not [3, time, 5]"),
    (MissesItsRate, "the rate is 100.0, but `rate` says 50.0"),
    (CountsTooMany, "length / rate is 2.75 s for an utterance of 1.10 s"),
    (FailsOnShortAudio, "'30 ms of audio give finite frames or a DataError': it raises RuntimeError: kernel size"),
    (ForgetsASetting, "'`settings()` is plain JSON and names every argument of the constructor': "
                      "squared missing from ['version']"),
    (HasAStaleFingerprint, "squared=True changes the frames and not the fingerprint 0"),
    (HasAFleetingFingerprint, "'The fingerprint is the same for two equal extractors, and another where"),
    (SettingsAreNoJSON, "does not survive JSON"),
])
def test_a_broken_feature_extractor_is_told_the_rule(extractor, finding):
    with pytest.raises(PluginError) as caught:
        testing.check_features(extractor)
    assert finding in str(caught.value)


@pytest.mark.parametrize("extractor", [Levels, RefusesShortAudio])
def test_the_extractors_that_they_vary_keep_the_contract(extractor):
    testing.check_features(extractor)


# A small encoder, and some that break a rule


class Letters(Encoder):
    """Two layers of framewise linear maps over frames of 20 ms, and three characters."""

    layer_dims = (6, 5)
    rate = 50.0
    vocabulary = 3

    def __init__(self):
        super().__init__()
        self.first, self.second, self.output = nn.Linear(320, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    @classmethod
    def from_pretrained(cls, source=None):
        torch.manual_seed(0)
        return cls()

    def frames(self, waveforms, lengths):
        data = nn.functional.pad(waveforms, (0, -waveforms.shape[1] % 320)).unflatten(1, (-1, 320))
        return Frames(data, (lengths + 319) // 320, SAMPLE_RATE / 320)

    def forward(self, waveforms, lengths):
        frames = self.frames(waveforms, lengths)
        first = self.first(frames.data).tanh()
        second = self.second(first).tanh()
        outputs = (first, second, self.output(second).log_softmax(dim=2))
        *layers, log_probs = [Frames(data, frames.lengths, frames.rate).masked() for data in outputs]
        return Encoding(tuple(layers), log_probs)

    def decode(self, log_probs):
        return ["".join("-ab"[piece] for piece in item.argmax(dim=1).tolist()) for item in log_probs.unpad()]

    @property
    def fingerprint(self):
        return fingerprint({}, self.state_dict())


class IsNotThere(Letters):
    @classmethod
    def from_pretrained(cls, source=None):
        raise DataError("weights.safetensors is missing")


class FreezesNothing(Letters):
    def freeze(self):
        return None


class StaysTrainable(Letters):
    def freeze(self):
        return self.eval()


class StaysInTraining(Letters):
    def freeze(self):
        return self.requires_grad_(False)


class HidesALayer(Letters):
    def forward(self, waveforms, lengths):
        encoding = super().forward(waveforms, lengths)
        return Encoding(encoding.layers[:1], encoding.log_probs)


class ShortensALayer(Letters):
    def forward(self, waveforms, lengths):
        first, second = super().forward(waveforms, lengths).layers
        shorter = Frames(second.data, second.lengths - 1, second.rate).masked()
        return Encoding((first, shorter), super().forward(waveforms, lengths).log_probs)


class ShortensTheOutput(Letters):
    def forward(self, waveforms, lengths):
        encoding = super().forward(waveforms, lengths)
        log_probs = encoding.log_probs
        return Encoding(encoding.layers, Frames(log_probs.data, log_probs.lengths - 1, log_probs.rate).masked())


class MissesItsOwnRate(Letters):
    rate = 25.0


class GivesLogits(Letters):
    def forward(self, waveforms, lengths):
        encoding = super().forward(waveforms, lengths)
        louder = encoding.log_probs
        return Encoding(encoding.layers, Frames(louder.data * 2, louder.lengths, louder.rate))


class NormalisesTheBatch(Letters):
    def frames(self, waveforms, lengths):
        return super().frames(waveforms / waveforms.std(), lengths)


class DropsFrames(Letters):
    def forward(self, waveforms, lengths):
        return super().forward(nn.functional.dropout(waveforms, 0.5), lengths)


class DecodesOneText(Letters):
    def decode(self, log_probs):
        return super().decode(log_probs)[:1]


class DecodesTheBatch(Letters):
    def decode(self, log_probs):
        return [f"{len(log_probs.lengths)} utterances"] * len(log_probs.lengths)


class MiscountsItsTokens(Letters):
    vocabulary = 4


class HidesItsTokens(Letters):
    vocabulary = 0


class HearsLayersOnly(Letters):
    vocabulary = 0

    def forward(self, waveforms, lengths):
        return Encoding(super().forward(waveforms, lengths).layers)

    def decode(self, log_probs):
        raise DataError("no CTC")


class HashesNoWeights(Letters):
    @property
    def fingerprint(self):
        return fingerprint({"layers": 2}, {})


class Above(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, frames):
        return Frames(self.linear(frames.data).tanh(), frames.lengths, frames.rate).masked()


class CanBeSplit(Letters):
    def top(self, count):
        return copy.deepcopy(nn.Sequential(Above(self.second))).requires_grad_(True)


class SharesItsTop(Letters):
    def top(self, count):
        return nn.Sequential(Above(self.second)).requires_grad_(True)


class FreezesItsTop(Letters):
    def top(self, count):
        return copy.deepcopy(nn.Sequential(Above(self.second)))


class BeginsItsTopAnew(Letters):
    def top(self, count):
        return nn.Sequential(Above(nn.Linear(6, 5)))


class HasALowTop(Letters):
    def top(self, count):
        return nn.Sequential()


@pytest.mark.parametrize(("encoder", "finding"), [
    (SharesItsTop, "2 parameters of top are the encoder's own, e.g. ['0.linear.weight']"),
    (FreezesItsTop, "2 parameters of top want no gradients, e.g. ['0.linear.weight']"),
    (BeginsItsTopAnew, "'`top`, where there is one, gives trainable copies of the last layers that compute what the "
                       "layers do': layer 2 and its copy differ by "),
    (HasALowTop, "top(1) gives 0 modules"),
    (IsNotThere, "'`example()`, by default `from_pretrained()`, gives an encoder': it raises DataError: "
                   "weights.safetensors is"),
    (FreezesNothing, "it gives a NoneType"),
    (StaysTrainable, "6 parameters still want gradients, e.g. ['first.weight']"),
    (StaysInTraining, "4 modules are in training mode"),
    (HidesALayer, "1 layers, but layer_dims is (6, 5)"),
    (ShortensALayer, "layer 2 has the lengths [54, 21, 35], layer 1 [55, 22, 36]"),
    (ShortensTheOutput, "log_probs has the lengths [54, 21, 35], layer 1 [55, 22, 36]"),
    (MissesItsOwnRate, "'Every layer has the rate `rate` and the same lengths, and so has log_probs where its rate is "
                       "the same': layer 1 has 50 frames per second, but `rate` is 25"),
    (GivesLogits, "'The probabilities of each frame sum to 1': a frame's sum is 0."),
    (NormalisesTheBatch, "'An utterance has the same layers and log_probs alone, in a batch, and under longer padding'"
                         ": layer 1 of utterance 1, "),
    (DropsFrames, "log_probs of two calls differ by "),
    (DecodesOneText, "1 strings for 3 utterances"),
    (DecodesTheBatch, "['1 utterances'] alone, '3 utterances' in a batch"),
    (MiscountsItsTokens, "log_probs: data has shape [3, 55, 3], not [3, time, 4]"),
    (HidesItsTokens, "`vocabulary` is 0, and there are log_probs"),
    (HashesNoWeights, "before and after first.weight changes"),
])
def test_a_broken_encoder_is_told_the_rule(encoder, finding):
    with pytest.raises(PluginError) as caught:
        testing.check_encoder(encoder)
    assert finding in str(caught.value)


def test_an_encoder_is_checked_as_class_or_as_instance_and_left_as_it_is():
    testing.check_encoder(Letters)
    testing.check_encoder(HearsLayersOnly)
    testing.check_encoder(CanBeSplit)
    encoder = Letters.from_pretrained()
    testing.check_encoder(encoder)
    assert encoder.training
    assert all(parameter.requires_grad for parameter in encoder.parameters())


# Corpora that break a rule


class Tapes(Corpus):
    layout = "FOLDER/tapes/A1.wav"
    labels = {"A": "anger"}  # noqa: RUF012 as a stranger may write it

    def read(self, folder):
        if not (folder / "tapes").is_dir():
            raise DataError(f"{folder / 'tapes'} is missing; expected {self.layout}")
        return [Utterance("A1", folder / "tapes/A1.wav", "1", "A")]


class FindsNothing(Tapes):
    def read(self, folder):
        return sorted(folder.glob("tapes/*.wav"))


class Invents(Tapes):
    def read(self, folder):
        return [Utterance("A1", folder / "tapes/A1.wav", "1", "A")]


class TellsNothing(Tapes):
    def read(self, folder):
        raise DataError("wrong folder")


class HidesTheLayout(Tapes):
    def read(self, folder):
        raise DataError(f"{folder} is wrong")


class HasNoLayout(Tapes):
    layout = ""


class NumbersLabels(Tapes):
    labels = {0: "anger"}  # noqa: RUF012


class Opens(Tapes):
    def read(self, folder):
        return json.loads((folder / "index.json").read_text())


@pytest.mark.parametrize(("corpus", "finding"), [
    (FindsNothing, "'A missing folder raises a DataError that names it, or the audio is made there': "
                   "it gives 0 utterances and no error"),
    (Invents, "it gives 1 utterances and no error, 1 without audio"),
    (TellsNothing, "nowhere' is not in the message: wrong folder"),
    (HidesTheLayout, "'FOLDER/tapes/A1.wav' is not in the message: "),
    (HasNoLayout, "`layout` is ''"),
    (NumbersLabels, "[(0, 'anger')] is no pair of strings"),
    (Opens, "it raises FileNotFoundError: "),
])
def test_a_broken_corpus_reader_is_told_the_rule(corpus, finding):
    with pytest.raises(PluginError) as caught:
        testing.check_corpus(corpus)
    assert finding in str(caught.value)


def test_the_reader_that_they_vary_keeps_the_contract():
    testing.check_corpus(Tapes)
