"""The command `ser`: what it prints, what it refuses, and what it does not import."""

import json
import os
import re
import subprocess
import sys
import types
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint, EntryPoints, version
from types import SimpleNamespace

import pytest

from ser_plugins import cli, registry, testing
from ser_plugins.errors import DataError, OptionError


@pytest.fixture
def ser(capsys):
    """Runs the command in this process and returns exit code, standard output and standard error."""

    def run(*words):
        code = cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def twice(monkeypatch):
    """A head `mp` of another distribution beside ours, and a head `sick` that does not import."""
    real = registry.entry_points

    def with_strangers(group):
        strangers = []
        if group == "ser_plugins.heads":
            for owner, name, value in (("other", "mp", "other:MP"), ("sickness", "sick", "no_such_module:Sick")):
                strangers.append(EntryPoint(name, value, group)._for(SimpleNamespace(name=owner, version="2.0")))
        return EntryPoints([*real(group=group), *strangers])

    monkeypatch.setattr(registry, "entry_points", with_strangers)


OURS = f"ser_plugins {version('ser_plugins')}"


def test_list_names_every_plugin_with_its_origin(ser):
    code, out, _ = ser("list")
    assert code == 0
    lines = out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["corpora", "features", "encoders", "heads"]
    assert f"  progressive      {OURS} (ser_plugins.heads.progressive:Progressive)" in lines


def test_list_of_one_group(ser):
    _, out, _ = ser("list", "features")
    assert out.splitlines()[0] == "features"
    assert "progressive" not in out


def test_list_imports_no_plugin_and_no_torch():
    program = ("import sys; from ser_plugins import cli; cli.main(['list']); "
               "heavy = {'torch', 'speechbrain', 'numpy', 'ser_plugins.contracts', 'ser_plugins.heads.mp'}; "
               "sys.exit(' '.join(heavy & set(sys.modules)) or 0)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "progressive" in done.stdout


@pytest.mark.usefixtures("twice")
def test_list_marks_a_name_that_is_registered_twice(ser):
    code, out, _ = ser("list", "heads")
    assert code == 0
    assert (f"  mp               REGISTERED 2 TIMES, not usable: by {OURS} (ser_plugins.heads.mp:MeanPooling) "
            "and other 2.0 (other:MP)") in out.splitlines()


@pytest.mark.usefixtures("twice")
def test_check_reports_broken_plugins_and_goes_on(ser):
    code, out, err = ser("check", "--group", "heads")
    assert code == 2
    assert f"BROKEN: head 'mp' is registered by {OURS} (ser_plugins.heads.mp:MeanPooling) and other 2.0" in out
    assert ("BROKEN: head 'sick' of sickness 2.0 (no_such_module:Sick) does not load: its module 'no_such_module' does "
            "not exist") in out
    assert "head 'baseline' keeps all " in out
    assert re.fullmatch(r"ser: error: 2 of \d+ plugins are broken: (mp, sick|sick, mp)\n", err)


def test_a_plugin_whose_extra_is_not_installed_is_not_broken(ser, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, out, err = ser("check", "--group", "encoders")
    assert (code, err) == (0, "")
    assert "not checked: encoder 'huggingface': it needs the package 'transformers', which is not installed" in out
    assert "encoder 'deepspeech2' keeps all " in out
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    code, out, err = ser("check", "--group", "corpora")
    assert (code, err) == (0, "")
    assert "not checked: corpus 'synthetic' speaks through espeak-ng, which is not installed: pip install" in out
    code, _, err = ser("check", "huggingface")
    assert code == 2
    assert "pip install 'ser_plugins[huggingface]'" in err


def test_check_of_one_plugin(ser):
    assert ser("check", "mp") == (0, f"head 'mp' keeps all {len(testing.HEAD_RULES)} rules\n", "")


@pytest.mark.usefixtures("twice")
def test_check_of_one_broken_plugin(ser):
    code, out, err = ser("check", "sick")
    assert (code, out) == (2, "")
    assert err.startswith("ser: error: head 'sick' of sickness 2.0 (no_such_module:Sick) does not load: ")


def test_info_tells_origin_needs_arguments_and_documentation(ser):
    code, out, _ = ser("info", "progressive")
    assert code == 0
    assert out.startswith(f"head 'progressive'\n  distribution  {OURS}\n")
    assert "needs         Needs(features=True, sequences=(), means='layer', log_probs=False)" in out
    assert "    layer_dims: Sequence[int]\n    num_classes: int\n    layer: int = 2\n" in out
    assert "\nConcatenates two utterance vectors" in out


def test_info_of_a_corpus_has_no_needs(ser):
    code, out, _ = ser("info", "emodb")
    assert code == 0
    assert "needs" not in out


def test_a_name_in_two_groups_needs_the_group(ser, monkeypatch):
    entries = EntryPoints(EntryPoint("same", "a:A", f"ser_plugins.{group}") for group in ("heads", "corpora"))
    monkeypatch.setattr(registry, "entry_points", lambda group: entries.select(group=group))
    code, _, err = ser("info", "same")
    assert (code, err) == (2, "ser: error: 'same' is in the groups corpora and heads; choose by --group corpora\n")
    assert cli.group_of("same", "heads") == "heads"


@pytest.mark.parametrize(("words", "message"), [
    (["lst"], "no command 'lst'; did you mean 'list'? commands: check, "),
    (["list", "head"], "no plugin group 'head'; did you mean 'heads'? known: corpora, encoders, features, heads"),
    (["list", "heads", "corpora"], "'ser list' takes no argument 'corpora'; see ser list -h"),
    (["info", "mp", "--grop", "heads"], "'ser info' takes no argument '--grop'; see ser info -h"),
    (["info", "mp", "--group", "corpora"], "no corpus 'mp';"),
    (["check", "progresive"], "no plugin 'progresive'; did you mean 'progressive'? installed: attention_pool, "),
    (["prepare", "emodb", "x", "--out", "y", "=", "3"], "'=' belongs to no option"),
])
def test_a_mistake_is_told_in_one_line(ser, words, message):
    code, out, err = ser(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"ser: error: {message}")
    assert err.count("\n") == 1


def test_without_a_command_the_help_is_shown(ser):
    code, out, _ = ser()
    assert code == 0
    assert "transcribe" in out


def test_the_module_is_a_program():
    done = subprocess.run([sys.executable, "-m", "ser_plugins.cli", "lst"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "did you mean 'list'" in done.stderr


@pytest.mark.parametrize(("words", "options"), [
    ([], {}),
    (["--label_rule", "paper"], {"label_rule": "paper"}),
    (["--seed=3", "--merge", "true", "--shift", "-3"], {"seed": 3, "merge": True, "shift": -3}),
    (["--label_map", "{L: neutral}"], {"label_map": {"L": "neutral"}}),
])
def test_options_are_yaml(words, options):
    assert cli.parse_options(words) == options


@pytest.mark.parametrize(("words", "message"), [
    (["--seed"], "option --seed has no value: write --seed value"),
    (["--seed", "--speakers", "3"], "option --seed has no value"),
    (["--seed", "3", "--seed", "4"], "option --seed is given twice"),
    (["paper"], "'paper' belongs to no option: write --option value"),
    (["--seed", "[3"], r"the value of --seed, '\[3', is no YAML"),
])
def test_options_that_are_none_are_refused(words, message):
    with pytest.raises(OptionError, match=message):
        cli.parse_options(words)


def test_prepare_writes_the_manifest_and_prints_its_counts(ser, monkeypatch, tmp_path):
    given = {}

    def prepare(corpus, folder, out_dir, options):
        given.update(corpus=corpus, folder=folder, out_dir=out_dir, options=options)
        return tmp_path / "manifest.csv"

    manifest = types.ModuleType("ser_plugins.corpora.manifest")
    vars(manifest).update(prepare=prepare, report=lambda path: f"the counts of {path.name}")
    monkeypatch.setitem(sys.modules, manifest.__name__, manifest)
    monkeypatch.setattr("ser_plugins.corpora.manifest", manifest, raising=False)
    code, out, _ = ser("prepare", "iemocap", "corpus", "--out", "there", "--label_rule", "paper")
    assert (code, out) == (0, f"the counts of manifest.csv\n{tmp_path / 'manifest.csv'}\n")
    assert given == {"corpus": "iemocap", "folder": "corpus", "out_dir": "there", "options": {"label_rule": "paper"}}


@pytest.mark.parametrize(("words", "message"), [
    (["emodb", "nowhere"], "nowhere is not this corpus: expected FOLDER/wav/03a01Fa.wav"),
    (["emodbb", "nowhere"], "no corpus 'emodbb'; did you mean 'emodb'? installed: "),
    (["emodb", "nowhere", "--label_mapp", "x"],
     "corpus 'emodb' has no argument 'label_mapp'; did you mean 'label_map'? its arguments: label_map"),
])
def test_prepare_refuses_what_is_wrong(ser, tmp_path, words, message):
    code, _, err = ser("prepare", *words, "--out", tmp_path)
    assert code == 2
    assert err.startswith(f"ser: error: {message}")
    assert list(tmp_path.iterdir()) == []


@dataclass
class Answer:
    text: str
    emotion: str

    def to_dict(self):
        return asdict(self)


class Recognizer:
    """Stands for `inference.EmotionRecognizer` and `SpeechRecognizer`: the same calls, and no model."""

    @classmethod
    def from_hparams(cls, source, run_opts):
        if source == "broken":
            raise DataError("broken is no run folder")
        recognizer = cls()
        recognizer.said = f"{source} on {run_opts['device']}"
        return recognizer

    def transcribe_file(self, path):
        if path == "bad.wav":
            raise DataError("bad.wav: the file is empty (0 bytes)")
        return self.said

    def transcribe_and_classify_file(self, path):
        return Answer(self.transcribe_file(path), "Ärger")


@pytest.fixture
def _inference(monkeypatch):
    module = types.ModuleType("ser_plugins.inference")
    vars(module).update(EmotionRecognizer=Recognizer, SpeechRecognizer=Recognizer)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("_inference")
def test_predict_prints_one_json_line_per_file(ser, monkeypatch):
    monkeypatch.setattr("ser_plugins.values.check_device", lambda name: None)  # this machine may have no GPU
    code, out, err = ser("predict", "a.wav", "b.wav", "--model", "run", "--device", "cuda:1")
    assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"file": name, "text": "run on cuda:1", "emotion": "Ärger"} for name in ("a.wav", "b.wav")]
    assert "Ärger" in out


@pytest.mark.usefixtures("_inference")
@pytest.mark.parametrize("command", [["predict", "--model", "run"], ["transcribe"]])
def test_a_bad_file_does_not_keep_the_others_from_their_answer(ser, command):
    code, out, err = ser(*command, "a.wav", "bad.wav", "b.wav")
    assert code == 1
    assert [json.loads(line)["file"] for line in out.splitlines()] == ["a.wav", "b.wav"]
    assert json.loads(err) == {"file": "bad.wav", "error": "bad.wav: the file is empty (0 bytes)"}


@pytest.mark.usefixtures("_inference")
@pytest.mark.parametrize(("words", "said"), [([], "None on cpu"), (["--encoder", "folder"], "folder on cpu")])
def test_transcribe_takes_the_shipped_encoder_or_another(ser, words, said):
    code, out, _ = ser("transcribe", "a.wav", *words)
    assert (code, json.loads(out)) == (0, {"file": "a.wav", "text": said})


@pytest.mark.usefixtures("_inference")
def test_a_model_that_is_none_is_told_once(ser):
    assert ser("predict", "a.wav", "b.wav", "--model", "broken") == (2, "", "ser: error: broken is no run folder\n")


def test_store_lists_and_makes_room(ser, tmp_path):
    from ser_plugins import store
    from ser_plugins.contracts import Needs
    from ser_plugins.features.spectrogram import Spectrogram

    stored = store.Store(tmp_path, Needs(features=True), Spectrogram())
    stored.kinds["features"].joinpath("a.npy").write_bytes(bytes(2_500_000))
    code, out, _ = ser("store", "info", tmp_path)
    assert code == 0
    assert out.splitlines()[0].split() == [Spectrogram().fingerprint, "ser_plugins.features.spectrogram.Spectrogram:",
                                           "1", "arrays,", "2.5", "MB"]
    assert ser("store", "prune", tmp_path)[:2] == (0, "0.0 MB removed\n")
    assert ser("store", "prune", tmp_path, Spectrogram().fingerprint)[:2] == (0, "2.5 MB removed\n")
    assert ser("store", "info", tmp_path)[1] == ""
    code, _, error = ser("store", "info", tmp_path / "nothing")
    assert (code, error) == (2, f"ser: error: no store {tmp_path / 'nothing'}: there is no such folder\n")


@pytest.mark.parametrize("words", [["list"], [], ["predict", "-h"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_nobody_reads_any_more_ends_quietly(words, unbuffered):
    program = f"import sys; from ser_plugins import cli; sys.exit(cli.main({words}))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == (0 if words != ["list"] and unbuffered else 1)  # argparse passes over it
