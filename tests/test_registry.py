"""Names to plugins, on entry points that exist only in memory."""

import shutil
import sys
from importlib.metadata import Distribution, EntryPoint, EntryPoints

import pytest

from ser_plugins import cli, registry
from ser_plugins.errors import OptionError, PluginError


class InMemory(Distribution):
    """A distribution that has a name, a version and entry points, and no files."""

    def __init__(self, name, entries):
        self._entries = [EntryPoint(each, value, group)._for(self) for group, each, value in entries]
        self._name = name

    @property
    def metadata(self):
        return {"Name": self._name, "Version": "1.0"}

    @property
    def entry_points(self):
        return EntryPoints(self._entries)

    def read_text(self, filename):
        return None

    def locate_file(self, path):
        raise NotImplementedError


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Installs distributions ``name=[(group, plugin name, "module:Class"), …]`` beside modules in ``tmp_path``."""
    monkeypatch.syspath_prepend(tmp_path)

    def installed(**distributions):
        entries = [entry for name, found in distributions.items() for entry in InMemory(name, found).entry_points]
        monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints(entries).select(group=group))

    yield installed
    for name in [name for name in sys.modules if name.startswith("stranger")]:
        del sys.modules[name]


PLUGIN = '''
class Plugin:
    def __init__(self, num_classes: int, layer: int = 2, dropout: float = 0.25, name: "str | None" = None):
        if layer > 9:
            raise ValueError(f"layer {layer} is too high")
        self.given = (num_classes, layer, dropout, name)
'''


@pytest.fixture
def stranger(install, tmp_path):
    """One head, `attention`, that tells what its constructor was given."""
    (tmp_path / "stranger.py").write_text(PLUGIN)
    install(stranger=[("ser_plugins.heads", "attention", "stranger:Plugin")])


def test_names_are_sorted_and_keep_their_distribution(install):
    install(one=[("ser_plugins.heads", "b", "x:X"), ("ser_plugins.features", "f", "x:F")],
            two=[("ser_plugins.heads", "a", "y:Y")])
    found = registry.installed("heads")
    assert list(found) == ["a", "b"]
    assert registry.distribution(found["a"][0]) == "two 1.0"


def test_two_distributions_with_one_name_are_refused_and_named(install):
    install(one=[("ser_plugins.heads", "attention", "stranger_one:A")],
            two=[("ser_plugins.heads", "attention", "stranger_two:B")])
    with pytest.raises(PluginError, match=r"head 'attention' is registered by one 1\.0 \(stranger_one:A\) and "
                                          r"two 1\.0 \(stranger_two:B\); uninstall one of them"):
        registry.load("heads", "attention")


def test_a_double_name_does_not_disturb_the_others(install, tmp_path):
    (tmp_path / "stranger.py").write_text(PLUGIN)
    install(one=[("ser_plugins.heads", "twice", "a:A"), ("ser_plugins.heads", "good", "stranger:Plugin")],
            two=[("ser_plugins.heads", "twice", "b:B")])
    assert registry.load("heads", "good").__name__ == "Plugin"


def test_a_broken_plugin_is_reported_and_does_not_disturb_the_others(install, tmp_path):
    (tmp_path / "stranger_broken.py").write_text("1 / 0")
    (tmp_path / "stranger_good.py").write_text(PLUGIN)
    install(one=[("ser_plugins.heads", "broken", "stranger_broken:Plugin")],
            two=[("ser_plugins.heads", "good", "stranger_good:Plugin")])
    assert registry.create("heads", "good", context={"num_classes": 4}).given == (4, 2, 0.25, None)
    with pytest.raises(PluginError, match=r"head 'broken' of one 1\.0 \(stranger_broken:Plugin\) does not load: "
                                          "it raises ZeroDivisionError: division by zero"):
        registry.load("heads", "broken")


HEADS = '''
import torch
from torch import nn
from ser_plugins.contracts import Head, Needs


class Good(Head):
    needs = Needs(features=True)

    def __init__(self, feature_dim: int, num_classes: int):
        super().__init__()
        self.output = nn.Linear(feature_dim, num_classes)

    def forward(self, inputs):
        return self.output(inputs.features.mean())


class Transposed(Good):
    def forward(self, inputs):
        return super().forward(inputs).T


class Leaks(Good):
    def forward(self, inputs):
        return self.output(inputs.features.data.mean(dim=1))


class Wavers(Good):
    def forward(self, inputs):
        return super().forward(inputs) + 1e-3 * torch.randn(1)


class Stands(Good):
    def forward(self, inputs):
        return super().forward(inputs) * 0


class Trembles(Good):
    def forward(self, inputs):
        return self.output(nn.functional.dropout(inputs.features.mean(), 0.1))
'''


def test_ser_check_tells_what_is_wrong_with_each_plugin(install, tmp_path, capsys):
    (tmp_path / "stranger_heads.py").write_text(HEADS)
    (tmp_path / "stranger_raises.py").write_text("{}['key']")
    (tmp_path / "stranger_exits.py").write_text("raise SystemExit('no licence')")
    (tmp_path / "stranger_wants.py").write_text("import parselmouth_of_nobody.praat")
    install(one=[("ser_plugins.heads", name, f"stranger_{module}") for name, module in (
                ("exits", "exits:Head"), ("good", "heads:Good"), ("gone", "gone:Head"), ("leaks", "heads:Leaks"),
                ("raises", "raises:Head"), ("stands", "heads:Stands"), ("transposed", "heads:Transposed"),
                ("trembles", "heads:Trembles"), ("twice", "heads:Good"), ("wants", "wants:Head"),
                ("wavers", "heads:Wavers"))],
            two=[("ser_plugins.heads", "twice", "stranger_other:Good")])
    assert cli.main(["check"]) == 2
    out, err = capsys.readouterr()
    found = out.splitlines()
    for number, sentences in enumerate((
            ["BROKEN: head 'exits' of one 1.0 (stranger_exits:Head) does not load: it raises SystemExit: no licence"],
            ["BROKEN: head 'gone' of one 1.0 (stranger_gone:Head) does not load: its module 'stranger_gone' does not "
             "exist"],
            ["head 'good' keeps all 10 rules"],
            ["head 'leaks' breaks the rule 'An utterance has the same logits alone, in a batch, and beside a longer",
             "differ by", "padding or another utterance reaches the result: frames.mask() and frames.mean() leave"],
            ["head 'raises' of one 1.0 (stranger_raises:Head) does not load: it raises KeyError: 'key'"],
            ["head 'stands' breaks the rule 'Finite gradients", "every gradient is zero: nothing is learned"],
            ["head 'transposed' breaks the rule 'Logits are finite", "the shape is [3, 4] for 4 utterances and 3"],
            ["head 'trembles' breaks the rule 'In evaluation mode the same inputs give the same logits'",
             "eval() has to end dropout and noise"],
            ["head 'twice' is registered by one 1.0 (stranger_heads:Good) and two 1.0 (stranger_other:Good); "
             "uninstall one"],
            ["head 'wants'", "it needs the package 'parselmouth_of_nobody', which is not installed here"],
            ["head 'wavers' breaks the rule 'In evaluation mode the same inputs give the same logits'"])):
        assert all(sentence in found[number] for sentence in sentences), found[number]
    assert len(found) == 11
    assert err == ("ser: error: 10 of 11 plugins are broken: exits, gone, leaks, raises, stands, transposed, trembles, "
                   "twice, wants, wavers\n")


def test_what_is_no_class_is_refused(install, tmp_path):
    (tmp_path / "stranger.py").write_text("Plugin = 3")
    install(one=[("ser_plugins.heads", "three", "stranger:Plugin")])
    with pytest.raises(PluginError, match="is no class but of type int"):
        registry.load("heads", "three")


def test_only_the_plugin_asked_for_is_imported(install, tmp_path):
    for name in ("stranger_wanted", "stranger_other"):
        (tmp_path / f"{name}.py").write_text(PLUGIN)
    install(one=[("ser_plugins.heads", "wanted", "stranger_wanted:Plugin"),
                 ("ser_plugins.heads", "other", "stranger_other:Plugin")])
    registry.installed("heads")
    assert not [name for name in sys.modules if name.startswith("stranger")]
    registry.load("heads", "wanted")
    assert [name for name in sys.modules if name.startswith("stranger")] == ["stranger_wanted"]


@pytest.mark.usefixtures("stranger")
@pytest.mark.parametrize(("call", "message"), [
    (lambda: registry.find("heads", "atention"), "no head 'atention'; did you mean 'attention'? installed: attention"),
    (lambda: registry.find("corpora", "emodb"), "no corpus 'emodb'; installed: (none)"),
    (lambda: registry.installed("head"),
     "no plugin group 'head'; did you mean 'heads'? known: corpora, encoders, features, heads"),
])
def test_a_wrong_name_names_the_right_ones(call, message):
    with pytest.raises(PluginError) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.usefixtures("stranger")
@pytest.mark.parametrize(("options", "message"), [
    ({"layr": 3},
     "head 'attention' has no argument 'layr'; did you mean 'layer'? its arguments: dropout, layer, name"),
    ({"num_classes": 3}, "head 'attention' has no argument 'num_classes'; its arguments: dropout, layer, name"),
    ({"layer": "two"}, "head 'attention': layer must be int, not str 'two'"),
    ({"layer": True}, "head 'attention': layer must be int, not bool True"),
    ({"name": 3}, "head 'attention': name must be str or None, not int 3"),
    ({"layer": 12}, "head 'attention': layer 12 is too high"),
])
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(OptionError) as caught:
        registry.create("heads", "attention", options, {"num_classes": 4})
    assert str(caught.value) == message


@pytest.mark.usefixtures("stranger")
def test_context_goes_only_where_it_is_named():
    head = registry.create("heads", "attention", {"dropout": 0}, {"num_classes": 4, "feature_dim": 27})
    assert head.given == (4, 2, 0, None)


@pytest.mark.usefixtures("stranger")
def test_a_missing_argument_is_named():
    with pytest.raises(OptionError, match=r"head 'attention': .*num_classes"):
        registry.create("heads", "attention")


@pytest.mark.parametrize("layer", [0, 6, -1])
@pytest.mark.parametrize("name", ["mp", "rnn", "progressive"])
def test_a_layer_that_the_encoder_does_not_have_is_refused(name, layer):
    context = {"feature_dim": 27, "layer_dims": (512,) * 5, "num_classes": 4}
    message = f"head '{name}': layer {layer} does not exist: the encoder has layers 1 to 5"
    with pytest.raises(OptionError, match=message):
        registry.create("heads", name, {"layer": layer}, context)


def test_the_built_in_plugins_come_through_entry_points():
    for group in registry.GROUPS:
        owners = {registry.distribution(entry) for found in registry.installed(group).values() for entry in found
                  if entry.value.startswith("ser_plugins.")}
        assert [owner.split()[0] for owner in owners] == ["ser_plugins"]


def test_what_is_installed_meanwhile_is_found(tmp_path, monkeypatch):
    """In a notebook, by pip, while the process goes on; what is uninstalled is not."""
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "late" not in registry.installed("heads")
    folder = tmp_path / "late-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: late\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[ser_plugins.heads]\nlate = late:Late\n")
    assert registry.distribution(registry.find("heads", "late")) == "late 1.0"
    shutil.rmtree(folder)
    assert "late" not in registry.installed("heads")
