"""The recogniser's recipe: its alphabet, data and objective, and short trainings on tones with short transcripts."""

import copy
import functools
import itertools
import json
import math
import re
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import processes
import pytest
import sentencepiece
import speechbrain as sb
import torch
import train_asr

from ser_plugins import audio, experiment
from ser_plugins.contracts import Frames
from ser_plugins.corpora.manifest import Row
from ser_plugins.decoding import BeamSearch
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.errors import DataError, OptionError, SerError
from ser_plugins.text import character_tokenizer, normalize_text, subword_tokenizer

TINY = ("--units", "8", "--num_layers", "2", "--channels", "2", "--batch_size", "3", "--num_workers", "0",
        "--valid_speakers", "1", "--schedule", "divide", "--lr", "0.01", "--noprogressbar", "--dynamic_batching",
        "false", "--speeds", "null", "--dropout", "0")
ONE_CORPUS = ("--train_data", "[{corpus: librispeech, options: {splits: [train-clean-5]}}]")
RECIPES = Path(train_asr.__file__).parent
WORDS = ("IT'S", "A", "TONE", "OF", "SOME", "PITCH", "AND", "NO", "SPEECH")


@pytest.fixture(scope="module")
def tokenizer():
    return sentencepiece.SentencePieceProcessor(model_proto=character_tokenizer())


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return DeepSpeech2(units=4, num_layers=1, channels=1, time_strides=(2, 2),
                       tokenizer=character_tokenizer())


@pytest.fixture(scope="module")
def librispeech(tmp_path_factory, tone):
    """Tones with transcripts in LibriSpeech's layout: 3 speakers to train and validate on, one to test."""
    folder = tmp_path_factory.mktemp("LibriSpeech")
    for split, speakers in (("train-clean-5", ("61", "7", "908")), ("test-clean-5spk", ("12",))):
        for speaker in speakers:
            chapter = folder / split / speaker / "1"
            lines = []
            for number in range(4):
                name = f"{speaker}-1-{number:04d}"
                pitch = 100 + int(speaker) / 4 + 20 * number
                tone(chapter / f"{name}.flac", seconds=0.8 + number / 10, frequency=pitch)
                lines.append(f"{name} {WORDS[(number + int(speaker)) % 9]} {WORDS[(2 * number + int(speaker)) % 9]}")
            (chapter / f"{speaker}-1.trans.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def train(recipe, librispeech):
    """Trains, and returns the Brain."""

    def run(folder, *words):
        brains = []
        export = train_asr.export
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train_asr, "export", lambda brain, *rest: brains.append(brain) or export(brain, *rest))
            recipe(train_asr.main, "asr_small.yaml", "--data_folder", librispeech, "--output_folder", folder, *TINY,
                   *ONE_CORPUS, *words)
        return brains[0]

    return run


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    """A run of two epochs and its Brain."""
    folder = tmp_path_factory.mktemp("asr") / "run"
    return folder, train(folder, "--number_of_epochs", "2")


def row(name="a", duration=1.0, text="A TONE", speaker="s"):
    return Row(name, f"{name}.wav", 0.0, duration, duration, 16000, speaker, text=text)


def distance(found, wanted):
    """Levenshtein's distance, as he defines it."""
    if not found or not wanted:
        return len(found) + len(wanted)
    if found[0] == wanted[0]:
        return distance(found[1:], wanted[1:])
    return 1 + min(distance(found[1:], wanted), distance(found, wanted[1:]), distance(found[1:], wanted[1:]))


def test_the_alphabet_has_28_characters_and_the_blank(tokenizer):
    assert tokenizer.vocab_size() == 29
    text = "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG'S BACK"
    pieces = tokenizer.encode(text)
    assert tokenizer.decode(pieces) == text
    assert len(pieces) == len(text)
    assert set(pieces) == set(range(1, 29))  # 0 is the blank


@pytest.mark.parametrize(("text", "normalized"), [
    ("MISTER QUILTER IS THE APOSTLE", "MISTER QUILTER IS THE APOSTLE"),
    ("It's  well-known.", "IT'S WELL KNOWN"),
    ("  a\tb\nc ", "A B C"),
    ("1 + 1 = 2", ""),
    ("naïve, für’s", "NAIVE FUR'S"),
    ("", ""),
])
def test_texts_are_normalized(tokenizer, text, normalized):
    assert normalize_text(text) == normalized
    assert tokenizer.decode(tokenizer.encode(normalized)) == normalized


def test_speakers_are_held_out_whole():
    rows = [row(str(number), speaker=f"s{number % 3}") for number in range(9)]
    kept, held = train_asr.speaker_split(rows, 1)
    assert {one.speaker for one in kept} == {"s0", "s1"}
    assert {one.speaker for one in held} == {"s2"}
    assert sorted(one.id for one in kept + held) == [str(number) for number in range(9)]


def test_a_corpus_that_is_not_there_costs_no_run(train, tmp_path):
    train(tmp_path / "run", "--number_of_epochs", "1")
    before = sorted(tmp_path.glob("run/**/*"))
    with pytest.raises(DataError, match="is not this corpus"):
        train(tmp_path / "run", "--overwrite", "true", "--data_folder", tmp_path / "run")
    with pytest.raises(DataError, match="is not this corpus"):
        train(tmp_path / "other", "--data_folder", tmp_path / "run")
    assert sorted(tmp_path.glob("run/**/*")) == before
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("held_out", [0, 3, 4])
def test_someone_must_train_and_someone_validate(held_out):
    rows = [row(speaker=f"s{number}") for number in range(3)]
    with pytest.raises(DataError, match=f"{held_out} of 3 speakers cannot be held out for validation"):
        train_asr.speaker_split(rows, held_out)


def test_utterances_that_cannot_train_are_left_out(encoder, caplog):
    rows = [row("good"), row("long", duration=20.0), row("empty", text=""), row("digits", text="1 2 3"),
            row("fast", duration=0.2, text="NOBODY SPEAKS AS FAST")]
    with caplog.at_level("INFO"):
        assert [one.id for one in train_asr.usable(rows, encoder, max_duration=17.0)] == ["good"]
    assert caplog.messages == ["1 of 5 utterances are used; left out 2 without letters, 1 over 17 s, 1 with more text "
                               "than CTC can align; taken for spaces: 1 (1) 2 (1) 3 (1)"]
    with pytest.raises(DataError, match=r"none of 4 utterances has a transcript that fits 17\.0 s"):
        train_asr.usable(rows[1:], encoder, 17.0)


@pytest.mark.parametrize("fastest", [1.0, 1.15])
@pytest.mark.parametrize("text", ["SOON", "SOMETHING", "BALL AND EGG AND BOOK"])
def test_what_is_usable_is_what_ctc_can_align(encoder, text, fastest):
    """The shortest audio that is kept has a finite loss, also at the fastest tempo; one frame less has none."""
    tokens = torch.tensor([encoder.tokenizer.encode(text)])
    kept = []
    for hundredths in range(10, 160):
        duration = hundredths / 100
        steps = int(encoder.steps(torch.tensor([int(duration * 16000 / fastest)])))
        loss = torch.nn.functional.ctc_loss(torch.zeros(steps, 1, 29).log_softmax(2), tokens, [steps], [len(text)])
        usable = True
        try:
            train_asr.usable([row(duration=duration, text=text)], encoder, 17.0, fastest)
        except DataError:
            usable = False
        assert usable == bool(loss.isfinite()), f"{duration} s, {steps} steps"
        kept.append(usable)
    assert 0 < sum(kept) < len(kept)


def brute_force(log_probs, tokens):
    """CTC's definition (Graves et al. 2006, eq. 3): the probability of all paths that collapse to the tokens."""
    total = 0.0
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        collapsed = [piece for piece, _ in itertools.groupby(path) if piece != 0]
        if collapsed == tokens:
            total += math.exp(sum(float(log_probs[step, piece]) for step, piece in enumerate(path)))
    return -math.log(total)


def objective(frames, tokens, stage, weights=(1.0, 1.0)):
    lengths = torch.tensor([len(item) for item in tokens])
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(item) for item in tokens], batch_first=True)
    batch = {"ids": ("first", "second"), "texts": ("A", "B"), "tokens": padded, "token_lengths": lengths,
             "weights": torch.tensor(weights)}
    brain = SimpleNamespace(device="cpu", decoders={"": lambda log_probs: ["A", "B"]}, outcome=[], epoch=2, step=7)
    brain.check_losses = lambda *words: train_asr.ASRBrain.check_losses(brain, *words)
    return train_asr.ASRBrain.compute_objectives(brain, frames, batch, stage)


def test_the_objective_is_ctc():
    generator = torch.Generator().manual_seed(1)
    items = [torch.randn(steps, 3, generator=generator).log_softmax(dim=1) for steps in (6, 4)]
    tokens = [[1, 1, 2], [2, 1]]
    wanted = [brute_force(item, token) for item, token in zip(items, tokens, strict=True)]
    loss = objective(Frames.from_list(items, 25.0), tokens, sb.Stage.TRAIN)
    assert float(loss) == pytest.approx(sum(wanted) / 2, rel=1e-5)
    loss = objective(Frames.from_list(items, 25.0), tokens, sb.Stage.TRAIN, weights=(1.0, 0.0))  # the second is a copy
    assert float(loss) == pytest.approx(wanted[0], rel=1e-5)


def test_a_transcript_longer_than_its_audio_stops_training_and_is_named():
    frames = Frames.from_list([torch.zeros(steps, 3).log_softmax(dim=1) for steps in (6, 2)], 25.0)
    with pytest.raises(DataError, match="the CTC loss of second is infinite: is a transcript longer than its audio"):
        objective(frames, [[1], [1, 1]], sb.Stage.TRAIN)
    assert objective(frames, [[1], [1, 1]], sb.Stage.TEST) == math.inf  # a test set is tested as it is


def test_a_training_that_diverges_is_told_so():
    frames = Frames.from_list([torch.full((6, 3), math.nan), torch.zeros(6, 3).log_softmax(dim=1)], 25.0)
    with pytest.raises(DataError, match=r"loss of first is not a number in epoch 2, step 7: training has diverged"):
        objective(frames, [[1], [1]], sb.Stage.TRAIN)


def test_a_copy_counts_nothing():
    """It has no frames left, so that its loss would be infinite."""
    frames = Frames.from_list([torch.randn(6, 3).log_softmax(dim=1), torch.zeros(0, 3)], 25.0)
    frames.data.requires_grad_()
    loss = objective(frames, [[1], [1, 2]], sb.Stage.TRAIN, weights=(1.0, 0.0))
    alone = objective(Frames.from_list([frames.data[0].detach()] * 2, 25.0), [[1], [1]], sb.Stage.TRAIN)
    assert loss.item() == pytest.approx(alone.item(), rel=1e-5)
    loss.backward()
    assert frames.data.grad.isfinite().all()
    assert not frames.data.grad[1].any()


def test_disturbances_change_with_the_epoch_and_are_repeated(tmp_path, tone, tokenizer):
    path = tone(tmp_path / "a.wav", seconds=0.5)
    rows = [Row("a", str(path), 0.0, 0.5, 0.5, 16000, "s", text="a tone")]
    data = train_asr.ASRDataset(rows, tokenizer, tempo=[0.85, 1.15], gain=[-6, 8], seed=1)
    lengths = {}
    for epoch in (1, 2, 1):
        data.epoch = epoch
        name, samples, tokens, text, weight = data[0]
        assert (name, text, tokenizer.decode(tokens.tolist()), weight) == ("a", "A TONE", "A TONE", 1.0)
        assert torch.equal(data[~0][1], samples)
        assert data[~0][4] == 0.0
        assert 8000 / 1.15 - 1 <= len(samples) <= 8000 / 0.85 + 1
        assert torch.equal(lengths.setdefault(epoch, samples), samples)
    assert len(lengths[1]) != len(lengths[2])
    undisturbed = train_asr.ASRDataset(rows, tokenizer)[0][1]
    assert torch.equal(undisturbed, torch.from_numpy(audio.read(path)))


def test_masks_are_for_training_only(encoder):
    seen = []

    def mask(features):
        seen.append(features.shape)
        return torch.rand(1) * features

    hparams = SimpleNamespace(spec_augment=True, masks=[mask], seed=1, encoder=encoder)
    brain = SimpleNamespace(device="cpu", hparams=hparams, epoch=1, modules=SimpleNamespace(encoder=encoder))
    for name in ("disturb", "spec_augment", "seed_of"):
        setattr(brain, name, functools.partial(getattr(train_asr.ASRBrain, name), brain))
    batch = {"waveforms": torch.rand(2, 8000), "lengths": torch.tensor([8000, 1600]), "ids": ("a", "b"),
             "weights": torch.ones(2)}
    batch["waveforms"][1, 1600:] = 0
    with torch.no_grad():
        train_asr.ASRBrain.compute_forward(brain, batch, sb.Stage.VALID)
        assert seen == []
        train_asr.ASRBrain.compute_forward(brain, batch, sb.Stage.TRAIN)
        assert seen == [(1, 51, 161), (1, 11, 161)], "each utterance has masks of its own, within its length"
        both = brain.disturb(batch, encoder.frontend(batch["waveforms"], batch["lengths"]))
        one = {key: value[1:] for key, value in batch.items()}
        alone = brain.disturb(one, encoder.frontend(one["waveforms"][:, :1600], one["lengths"]))
        torch.testing.assert_close(both.unpad()[1], alone.unpad()[0])
        copies = brain.disturb(batch | {"weights": torch.tensor([1.0, 0.0])}, both)
        assert copies.lengths.tolist() == [51, 0]


def test_a_run_leaves_error_rates_and_an_encoder(trained):
    folder, _ = trained
    assert {path.name for path in (folder / "encoder").iterdir()} == {
        "encoder.json", "weights.safetensors", "tokenizer.model"}
    log = (folder / "train_log.txt").read_text().splitlines()
    assert [line.partition(":")[0] for line in log] == ["epoch", "epoch", "epoch loaded"]
    assert all(name in line for line in log for name in ("CER: ", "WER: "))


def test_error_rates_are_those_of_the_transcripts(trained, librispeech):
    folder, brain = trained
    encoder = brain.hparams.encoder.eval()
    errors, total = {"cer": 0, "wer": 0}, {"cer": 0, "wer": 0}
    for line in (librispeech / "test-clean-5spk/12/1/12-1.trans.txt").read_text().splitlines():
        name, _, wanted = line.partition(" ")
        samples = torch.from_numpy(audio.read(librispeech / f"test-clean-5spk/12/1/{name}.flac")).unsqueeze(0)
        with torch.no_grad():
            (found,) = encoder.decode(encoder(samples, torch.tensor([samples.shape[1]])).log_probs)
        for kind, split in (("cer", list), ("wer", str.split)):
            errors[kind] += distance(split(found), split(wanted))
            total[kind] += len(split(wanted))
    for kind in ("cer", "wer"):
        rate = 100 * errors[kind] / total[kind]
        assert brain.test_stats[kind.upper()] == pytest.approx(rate)
        first = f"%WER {rate:.2f} [ {errors[kind]} / {total[kind]},"
        assert (folder / f"{kind}_test.txt").read_text().startswith(first)


def test_a_run_that_has_ended_is_tested_again_by_beam_search(train, trained, librispeech, tmp_path):
    """Nothing is trained; greedy error rates stay, those by beam search are of its transcripts."""
    folder, _ = trained
    shutil.copytree(folder, tmp_path / "run")
    brain = train(tmp_path / "run", "--number_of_epochs", "2", "--beam_size", "4")
    encoder = brain.hparams.encoder.eval()
    search, errors, total = BeamSearch(encoder.tokenizer, 4), 0, 0
    for line in (librispeech / "test-clean-5spk/12/1/12-1.trans.txt").read_text().splitlines():
        name, _, wanted = line.partition(" ")
        samples = torch.from_numpy(audio.read(librispeech / f"test-clean-5spk/12/1/{name}.flac")).unsqueeze(0)
        with torch.no_grad():
            (found,) = search(encoder(samples, torch.tensor([samples.shape[1]])).log_probs)
        errors, total = errors + distance(found, wanted), total + len(wanted)
    assert (tmp_path / "run/cer_test_beam.txt").read_text().startswith(
        f"%WER {100 * errors / total:.2f} [ {errors} / {total},")
    assert brain.test_stats["CER_beam"] == pytest.approx(100 * errors / total)
    for name in ("cer_test.txt", "wer_test.txt"):
        assert (tmp_path / "run" / name).read_text() == (folder / name).read_text()
    log = (tmp_path / "run/train_log.txt").read_text().splitlines()
    assert [line.partition(":")[0] for line in log] == ["epoch", "epoch", "epoch loaded", "epoch loaded"]
    notes = json.loads((tmp_path / "run/encoder/encoder.json").read_text())["notes"]
    assert notes["beam"] == "4 texts"
    assert notes["CER_beam"] == round(brain.test_stats["CER_beam"], 2)
    train(tmp_path / "run", "--number_of_epochs", "2")
    assert not list((tmp_path / "run").glob("*_beam.txt"))


def test_the_exported_encoder_is_the_trained_one(trained):
    folder, brain = trained
    loaded = DeepSpeech2.from_pretrained(folder / "encoder")
    own = copy.deepcopy(brain.hparams.encoder).freeze()
    samples, lengths = torch.randn(2, 12000, generator=torch.Generator().manual_seed(0)), torch.tensor([12000, 12000])
    wanted, found = own(samples, lengths), loaded(samples, lengths)
    torch.testing.assert_close(found.log_probs.data, wanted.log_probs.data, rtol=0, atol=2e-2)  # fp16 has 3 digits
    for tensor in own.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())
    rounded = own(samples, lengths)
    for one, other in zip((*found.layers, found.log_probs), (*rounded.layers, rounded.log_probs), strict=True):
        torch.testing.assert_close(one.data, other.data, rtol=0, atol=1e-6)
    assert own.fingerprint == loaded.fingerprint


def test_training_lowers_the_loss(trained):
    folder, _ = trained
    losses = [float(value) for value in re.findall(r"train loss: (\S+)", (folder / "train_log.txt").read_text())]
    assert len(losses) == 2
    assert losses[1] < losses[0]


def test_a_run_that_was_stopped_goes_on_as_if_undisturbed(train, trained, tmp_path):
    undisturbed, _ = trained
    stopped = tmp_path / "run"
    train(stopped, "--number_of_epochs", "1")
    train(stopped, "--number_of_epochs", "2")

    def epochs(folder):
        return [line for line in (folder / "train_log.txt").read_text().splitlines() if line.startswith("epoch: ")]

    assert epochs(stopped) == epochs(undisturbed)
    assert len(epochs(stopped)) == 2
    torch.testing.assert_close(weights(stopped), weights(undisturbed), rtol=0, atol=0)


def weights(folder):
    """Those of the last checkpoint."""
    return {name: torch.load(last_checkpoint(folder) / f"{name}.ckpt") for name in ("encoder", "optimizer", "schedule")}


def last_checkpoint(folder):
    return max((folder / "save").glob("CKPT*"), key=lambda path: path.stat().st_mtime)


@pytest.fixture
def shared(librispeech):
    """The command line of a training by several processes: ``shared(folder, "--lr", 0.1)``."""
    options = (RECIPES.parent / "hparams/asr_small.yaml", "--data_folder", librispeech, *TINY, *ONE_CORPUS,
               "--distributed_backend=gloo")
    return lambda folder, *words: (*options, "--output_folder", folder, *words)


KILLED = """
import os, signal, sys
sys.path.insert(0, {recipes!r})
import train_asr
from ser_plugins import experiment

fit_batch = train_asr.ASRBrain.fit_batch

def killed(brain, batch):
    os.write(1, f"step {{brain.step}};".encode())  # at one go, beside the other process
    if brain.step == {last} and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return fit_batch(brain, batch)

train_asr.ASRBrain.fit_batch = killed
experiment.run(train_asr.main)
"""
# at ten times the rate, first weights that differ by 1e-7 end 5e-5 apart after four steps
SHARED = ("--number_of_epochs", "1", "--spec_augment", "true", "--optimizer", "sgd", "--lr", "0.00003",
          "--time_mask_length", "6", "--beam_size", "3", "--dropout", "0.3", "--speeds", "[0.9, 1.1]")


def assert_same_training(folder, other):
    torch.testing.assert_close(weights(folder)["encoder"], weights(other)["encoder"], rtol=1e-4, atol=1e-5)
    for name in ("train_log.txt", "cer_test.txt", "wer_test.txt", "cer_test_beam.txt", "wer_test_beam.txt"):
        assert (folder / name).read_text() == (other / name).read_text()


def test_several_processes_learn_what_one_does(train, shared, torchrun, tmp_path):
    """By torchrun, as users start them. Batches of as much audio each, some of fewer utterances than processes."""
    words = (*SHARED, "--dynamic_batching", "true", "--max_batch_length", "2.2")
    train(tmp_path / "alone", *words)
    done = torchrun(3, RECIPES / "train_asr.py", *shared(tmp_path / "shared", *words))
    assert done.returncode == 0, done.stderr
    assert_same_training(tmp_path / "shared", tmp_path / "alone")


def test_processes_killed_in_mid_epoch_learn_what_an_undisturbed_one_does(train, shared, tmp_path):
    """One is killed in the fourth batch, when a step over the first two was kept."""
    words = (*SHARED, "--batch_size", "2", "--grad_accumulation_factor=2", "--ckpt_interval_minutes", "0")
    train(tmp_path / "alone", *words)
    words = shared(tmp_path / "killed", *words, "--ckpt_interval_steps=1")
    for last, code in ((4, -signal.SIGKILL), (None, 0)):
        (tmp_path / "killed.py").write_text(KILLED.format(recipes=str(RECIPES), last=last))
        done = processes.run(tmp_path / "killed.py", words, processes=2)
        assert code in done.codes, done.stderr
    assert [done.stdout.count(f"step {step};") for step in range(1, 5)] == [0, 0, 2, 2], "both see the third again"
    assert_same_training(tmp_path / "killed", tmp_path / "alone")


def test_a_batch_that_cannot_be_divided_is_refused(shared, tmp_path):
    words = shared(tmp_path / "run", "--batch_size", "3")
    done = processes.run(RECIPES / "train_asr.py", words, processes=2)
    assert "--batch_size 3 is that of all 2 processes together, and no multiple of 2" in done.stderr
    assert set(done.codes) == {2}


@pytest.mark.parametrize("changes", [("--batch_size", "2"), ("--dynamic_batching", "true", "--max_batch_length", "2.2",
                                                             "--num_buckets", "4", "--num_workers", "1")])
def test_a_run_killed_in_mid_epoch_ends_with_the_weights_of_an_undisturbed_one(
        train, librispeech, tmp_path, monkeypatch, changes):
    words = ("--number_of_epochs", "2", "--ckpt_interval_steps=1", "--ckpt_interval_minutes", "0", "--tempo",
             "[0.9, 1.1]", "--schedule", "one_cycle", "--optimizer", "adamw", "--dropout", "0.3", *changes)
    train(tmp_path / "undisturbed", *words)
    fit_batch, steps = train_asr.ASRBrain.fit_batch, []

    def killed(brain, batch):
        steps.append(batch["ids"])
        if len(steps) in (2, 7):  # in the first epoch, and then in the second; of four batches each
            raise ConnectionAbortedError
        return fit_batch(brain, batch)

    monkeypatch.setattr(train_asr.ASRBrain, "fit_batch", killed)
    for _ in range(2):
        with pytest.raises(ConnectionAbortedError):
            train(tmp_path / "killed", *words)
    train(tmp_path / "killed", *words)
    assert len(steps) == 8 + 2, "only the batch in which it was killed is seen again"
    found, wanted = weights(tmp_path / "killed"), weights(tmp_path / "undisturbed")
    assert found.pop("schedule") == wanted.pop("schedule")
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    logs = [(tmp_path / name / "train_log.txt").read_text() for name in ("killed", "undisturbed")]
    assert logs[0] == logs[1]


def test_gradients_are_averaged_over_the_batches_of_a_step(train, tmp_path, monkeypatch):
    """Three batches of two, the shortest first: one step, and the rest of the epoch teaches nothing."""
    first, on_fit_start = [], train_asr.ASRBrain.on_fit_start

    def kept(brain):
        first.append(copy.deepcopy(brain.hparams.encoder))
        on_fit_start(brain)

    monkeypatch.setattr(train_asr.ASRBrain, "on_fit_start", kept)
    brain = train(tmp_path / "run", "--number_of_epochs", "1", "--batch_size", "2", "--grad_accumulation_factor=3",
                  "--optimizer", "sgd", "--lr", "0.0003", "--spec_augment", "false")
    (encoder,) = first
    encoder.train()
    names = dict(encoder.named_parameters())
    order = sorted(range(8), key=lambda item: brain.train_data.rows[item].duration)
    gradients = {name: [] for name in names}
    for start in (0, 2, 4):
        batch = train_asr.ASRDataset.collate([brain.train_data[item] for item in order[start:start + 2]])
        log_probs = encoder(batch["waveforms"], batch["lengths"]).log_probs
        loss = sum(torch.nn.functional.ctc_loss(item, tokens[:number], (len(item),), (number,), reduction="sum")
                   for item, tokens, number in zip(log_probs.unpad(), batch["tokens"],
                                                   batch["token_lengths"].tolist(), strict=True)) / 2
        for name, gradient in zip(names, torch.autograd.grad(loss, list(names.values())), strict=True):
            gradients[name].append(gradient)
    mean = {name: sum(three) / 3 for name, three in gradients.items()}
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in mean.values()))
    rate = 0.0003 * min(1, 400 / norm)
    found = weights(tmp_path / "run")["encoder"]
    for name, before in names.items():
        wanted = before.detach() - 1.9 * rate * mean[name]  # Nesterov's first step with momentum 0.9
        torch.testing.assert_close(found[name], wanted, rtol=1e-4, atol=1e-6)


def test_a_cycle_ends_with_the_last_step_of_accumulated_batches(train, tmp_path):
    words = ("--number_of_epochs", "2", "--batch_size", "2", "--schedule", "one_cycle")
    train(tmp_path / "run", *words, "--grad_accumulation_factor=3")
    schedule = weights(tmp_path / "run")["schedule"]
    assert schedule["last_epoch"] == schedule["total_steps"] == 2
    for factor in (0, 5):
        with pytest.raises(OptionError, match=f"--grad_accumulation_factor {factor}: it must be from 1 to 4, the "):
            train(tmp_path / "other", *words, f"--grad_accumulation_factor={factor}")


def test_a_run_is_not_resumed_with_other_sizes(train, trained, tmp_path):
    folder, _ = trained
    shutil.copytree(folder, tmp_path / "run")
    with pytest.raises(OptionError, match=r"holds a run with other settings \(units \d+ → 5\); give another "):
        train(tmp_path / "run", "--number_of_epochs", "2", "--units", "5")
    train(tmp_path / "run", "--number_of_epochs", "1", "--units", "5", "--overwrite", "true")
    assert len(list((tmp_path / "run" / "save").glob("CKPT*"))) == 1


def test_what_is_wrong_is_told_before_the_folder_is_taken(train, librispeech, tmp_path):
    for words, message in ((("--optimizer", "admw"), "no key 'admw'; did you mean 'adamw'"),
                           (("--batch_size", "0"), "--batch_size 0: it must be 1 or more"),
                           (("--train_data", "[]"), "must name one corpus or more"),
                           (("--train_data", "[{corpus: librispech, folder: x}]"), "no corpus 'librispech'"),
                           (("--train_data", "[{folder: x}]"), "a corpus is {corpus: NAME, folder: FOLDER"),
                           (("--data_folder", "null"), "where is corpus 'librispeech'\\? give --data_folder"),
                           (("--beam_size", "-1"), "beam_size -1: it must be a whole number, 0"),
                           (("--lm", "words.arpa"), "greedy decoding takes no language model; give a beam_size"),
                           (("--tempo", "[2, 1]"), r"--tempo \[2, 1\]: it must be two numbers, or null")):
        with pytest.raises(SerError, match=message):
            train(tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="train-clean-55"):
        train(tmp_path / "run", "--train_data",
              f"[{{corpus: librispeech, folder: {librispeech}, options: {{splits: [train-clean-55]}}}}]")
    train(tmp_path / "run", "--number_of_epochs", "1")  # nothing had been trained


def test_a_run_is_not_resumed_on_other_transcripts_or_with_another_optimizer(train, trained, librispeech, tmp_path):
    folder, _ = trained
    shutil.copytree(folder, tmp_path / "run")
    with pytest.raises(OptionError, match=r"\(optimizer '!name:torch.optim.AdamW .*' → '!name:torch.optim.SGD "):
        train(tmp_path / "run", "--number_of_epochs", "2", "--optimizer", "sgd")
    data = shutil.copytree(librispeech, tmp_path / "data")
    transcript = next(data.glob("train-clean-5/7/*/*.trans.txt"))
    transcript.write_text(transcript.read_text() + "S")
    with pytest.raises(OptionError, match=r"other settings \(data '\w+' → '\w+'\)"):
        train(tmp_path / "run", "--number_of_epochs", "2", "--data_folder", data)


def test_it_trains_on_several_corpora(train, librispeech, tmp_path, tone):
    lines = {name: [] for name in ("wav.scp", "text", "utt2spk")}
    for part, speakers in (("train", "abc"), ("test", "d")):
        for number, speaker in enumerate(2 * speakers):
            key = f"{speaker}{number}"
            tone(tmp_path / "wav" / f"{key}.wav", seconds=0.8, frequency=200 + 20 * number)
            for name, value in (("wav.scp", f"wav/{key}.wav"), ("text", "a tone"), ("utt2spk", speaker)):
                lines[name].append(f"{key} {value}")
        (tmp_path / part).mkdir()
        for name, content in lines.items():
            (tmp_path / part / name).write_text("\n".join(sorted(content)) + "\n")
            content.clear()
    kaldi, other = (f"{{corpus: kaldi, folder: {tmp_path}, options: {{parts: {part}}}}}" for part in ("train", "test"))
    speech = f"{{corpus: librispeech, folder: {librispeech}, options: {{splits: [train-clean-5]}}}}"
    brain = train(tmp_path / "run", "--train_data", f"[{kaldi}, {speech}]", "--test_data", f"[{other}]",
                  "--valid_speakers", "1", "--number_of_epochs", "1")
    assert {row.speaker for row in brain.train_data.rows} == {"1-kaldi/a", "1-kaldi/b", "2-librispeech/61",
                                                              "2-librispeech/7", "2-librispeech/908"}
    notes = json.dumps(json.loads((tmp_path / "run/encoder/encoder.json").read_text()))
    assert 'kaldi {\\"parts\\": \\"train\\"} and librispeech' in notes


def test_tempo_gain_and_one_cycle_train_too(train, tmp_path):
    train(tmp_path / "run", "--number_of_epochs", "1", "--tempo", "[0.85, 1.15]", "--gain", "[-6, 8]", "--schedule",
          "one_cycle", "--time_strides", "[2, 1]", "--optimizer", "sgd")
    assert (tmp_path / "run/encoder/weights.safetensors").is_file()


@pytest.mark.parametrize(("tokens", "vocabulary"), [("unigram", 17), ("bpe", 24)])
def test_it_trains_on_subwords(train, tmp_path, tokens, vocabulary):
    brain = train(tmp_path / "run", "--number_of_epochs", "1", "--tokens", tokens, "--vocabulary", str(vocabulary))
    encoder = DeepSpeech2.from_pretrained(tmp_path / "run/encoder")
    assert encoder.vocabulary == brain.hparams.encoder.vocabulary == vocabulary
    texts = [row.text for row in brain.train_data.rows]
    assert sorted((tmp_path / "run/text.txt").read_text().splitlines()) == sorted(texts)
    text = " ".join(texts)
    pieces = encoder.tokenizer.encode(text)
    assert encoder.tokenizer.decode(pieces) == text
    assert 0 not in pieces
    assert len(pieces) < len(text)
    with pytest.raises(OptionError, match=f"no {tokens} model of 9999 pieces: .*[Vv]ocabulary size"):
        train(tmp_path / "other", "--number_of_epochs", "1", "--tokens", tokens, "--vocabulary", "9999")


def test_training_starts_from_a_trained_encoder(train, trained, tmp_path):
    folder, brain = trained
    start = ("--pretrained_encoder", folder / "encoder", "--number_of_epochs", "1")
    tuned = train(tmp_path / "run", *start, "--lr", "1e-9", "--optimizer", "sgd")  # too small a step to change anything
    before, after = (one.hparams.encoder.state_dict() for one in (brain, tuned))
    for name in before:
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(after[name], before[name].half().float(), rtol=0, atol=1e-5)
    for words, message in ((("--units", "5"), "is another network: units 8 there, 5 here"),
                           (("--tokens", "bpe"), "--tokens goes without --pretrained_encoder: that has tokens of its")):
        with pytest.raises(OptionError, match=message):
            train(tmp_path / "other", *start, *words, "--overwrite", "true")
    with pytest.raises(DataError, match="is no encoder folder"):
        train(tmp_path / "third", "--pretrained_encoder", tmp_path)
    assert not (tmp_path / "third").exists()


def test_a_pretrained_encoder_keeps_its_tokens(train, tmp_path):
    """Those that the new texts would give may have the same number, and other meanings."""
    first = train(tmp_path / "first", "--number_of_epochs", "1", "--tokens", "bpe", "--vocabulary", "24")
    swapped = "[{corpus: librispeech, options: {splits: [test-clean-5spk, train-clean-5]}}]"
    second = train(tmp_path / "second", "--number_of_epochs", "1", "--train_data", swapped, "--pretrained_encoder",
                   tmp_path / "first/encoder")
    assert second.hparams.encoder.tokenizer_model == first.hparams.encoder.tokenizer_model


@pytest.fixture(scope="module")
def few_letters():
    """A tokenizer of subwords that lacks most letters."""
    return sentencepiece.SentencePieceProcessor(model_proto=subword_tokenizer(["A TONE", "NOT A NOTE"], "bpe", 10))


def test_letters_that_the_tokenizer_lacks_are_no_targets(encoder, few_letters, tmp_path, tone, monkeypatch, caplog):
    """Their number is the blank's."""
    assert 0 in few_letters.encode("A QUIET TONE")
    monkeypatch.setattr(encoder, "tokenizer", few_letters)
    rows = [row("known"), row("quiet", text="A QUIET TONE"), row("zone", text="NO ZONE")]
    with caplog.at_level("INFO"):
        assert [one.id for one in train_asr.usable(rows, encoder, 17.0)] == ["known"]
        train_asr.report_unknown(rows, few_letters)
    assert caplog.messages == [
        "1 of 3 utterances are used; left out 2 with letters that the tokenizer lacks",
        "2 of 3 test utterances have letters that the tokenizer lacks (I Q U Z): each counts as an error, and the loss "
        "leaves it out"]
    path = str(tone(tmp_path / "a.wav"))
    data = train_asr.ASRDataset([Row("quiet", path, 0.0, 0.5, 0.5, 16000, "s", text="A quiet tone")], few_letters)
    _, _, tokens, text, _ = data[0]
    assert 0 not in tokens
    assert few_letters.decode(tokens.tolist()) == "A ET TONE"
    assert text == "A QUIET TONE"


def test_what_decides_the_tokens_is_in_the_runs_stamp(encoder, few_letters, tmp_path):
    def stamp(*words):
        exp = experiment.load([str(RECIPES.parent / "hparams/asr_small.yaml"), *map(str, words)])
        return json.dumps(train_asr.run_settings(exp))

    subwords = ("--tokens", "bpe", "--vocabulary", "20")
    assert len({stamp(), stamp(*subwords), stamp(*subwords[:2]), stamp("--tokens", "unigram", *subwords[2:])}) == 4
    encoder.save(tmp_path / "encoder")
    before = stamp("--pretrained_encoder", tmp_path / "encoder")
    shutil.move(tmp_path / "encoder", tmp_path / "moved")
    assert stamp("--pretrained_encoder", tmp_path / "moved") == before
    model = subword_tokenizer([" ".join(["'ABCDEFGHIJKLMNOPQRSTUVWXYZ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"])], "bpe", 29)
    (tmp_path / "moved/tokenizer.model").write_bytes(model)
    assert stamp("--pretrained_encoder", tmp_path / "moved") != before


def test_a_run_that_has_ended_is_tested_on_other_data(train, tmp_path):
    words = ("--number_of_epochs", "1")
    train(tmp_path / "run", *words)
    trained = weights(tmp_path / "run")
    other = "[{corpus: librispeech, options: {splits: [train-clean-5]}}]"
    brain = train(tmp_path / "run", *words, "--test_data", other)
    assert len(brain.errors["CER"].ids) == 12
    torch.testing.assert_close(weights(tmp_path / "run"), trained, rtol=0, atol=0)


def test_it_trains_in_bfloat16(train, tmp_path):
    brain = train(tmp_path / "run", "--number_of_epochs", "1", "--precision=bf16")
    wanted = train(tmp_path / "float32", "--number_of_epochs", "1").train_loss
    assert brain.train_loss == pytest.approx(wanted, rel=0.02)
    assert brain.train_loss != wanted
    assert all(tensor.dtype != torch.bfloat16 and tensor.isfinite().all()
               for tensor in brain.hparams.encoder.state_dict().values())


def test_tensorboard_shows_the_epochs(train, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for epochs in ("1", "2"):  # the second goes on
        train(tmp_path / "run", "--number_of_epochs", epochs, "--monitor", "tensorboard")
    curves = events.EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    log = (tmp_path / "run/train_log.txt").read_text()
    found = [event.value for event in curves.Scalars("CER/valid")]
    assert found == pytest.approx([float(value) for value in re.findall(r"valid CER: (\S+),", log)], rel=1e-2)
    assert [event.step for event in curves.Scalars("loss/train")] == [1, 2]


def test_a_monitor_that_is_not_installed_is_named(train, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(OptionError, match=r"--monitor wandb: .*; install it: pip install wandb"):
        train(tmp_path / "run", "--monitor", "wandb")
    with pytest.raises(OptionError, match="--monitor tensorbord: it must be one of tensorboard, wandb, or null"):
        train(tmp_path / "other", "--monitor", "tensorbord")


def test_weights_and_biases_gets_the_epochs(train, tmp_path, monkeypatch):
    logged, run = [], {}
    module = SimpleNamespace(init=lambda **words: run.update(words) or SimpleNamespace(
        log=lambda values, step=None: logged.append((step, values))))
    monkeypatch.setitem(sys.modules, "wandb", module)
    train(tmp_path / "run", "--number_of_epochs", "2", "--monitor", "wandb")
    assert (run["resume"], run["id"]) == ("allow", (tmp_path / "run/wandb_id").read_text())
    assert [step for step, _ in logged] == [1, 2, None]
    assert [set(values) & {"train", "valid", "test"} for _, values in logged] == [
        {"train", "valid"}, {"train", "valid"}, {"test"}]


def test_a_failure_of_weights_and_biases_is_told(train, tmp_path, monkeypatch):
    def init(**words):
        raise ValueError("no API key")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with pytest.raises(OptionError, match="--monitor wandb: no API key"):
        train(tmp_path / "run", "--monitor", "wandb")


def test_an_encoder_folder_is_an_encoder_of_train_ser(trained, train_ser_with):
    folder, _ = trained
    run = train_ser_with(folder / "encoder")
    assert (run / "predictions.csv").is_file()


@pytest.fixture
def train_ser_with(recipe, tones, tmp_path):
    """Trains `mp` on tones over an encoder, for one epoch."""
    import train_ser

    def run(encoder):
        return recipe(train_ser.main, "mp.yaml", "--corpus", "csv", "--data_folder", tones(), "--labels",
                      "[calm, tense]", "--encoder", encoder, "--layer", "2", "--tempi", "[]", "--num_workers", "0",
                      "--number_of_epochs", "1", "--output_root", tmp_path / "results")

    return run
