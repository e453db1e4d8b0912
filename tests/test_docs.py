"""What README, docs and comments tell is there: commands, options and files; the notebooks run; the site is whole."""

import contextlib
import html.parser
import io
import itertools
import json
import os
import re
import shlex
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import train_ser

from ser_plugins import cli, experiment, registry
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.testing import RULES

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
         *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md")),
         *sorted((ROOT / "ser_plugins").rglob("*.md"))]
SOURCES = [*sorted((ROOT / "recipes").glob("*.py")), *sorted((ROOT / "hparams").glob("*.yaml"))]
FOREIGN = {"--help", "--nproc_per_node", "--nnodes", "--rdzv_backend", "--rdzv_endpoint", "--head", "--address",
           "--nworkers", "--nthreads", "--strict", "--dist"}  # of pip, torchrun, ray, dask, mkdocs and pytest
WANTED = re.compile(r"(?<![\w./-])(?:recipes|hparams|benchmarks|docs|examples|tests|ser_plugins|\.ci)/[\w./-]*\w")


def snippets(text):
    """Code in a page: lines of fences, and what stands between backticks; continued lines are joined."""
    text = re.sub(r"\\\n\s*", " ", text)
    fences = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```\n", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [re.split(r"\s+#\s", line)[0] for fence in fences for line in fence.splitlines()]
    return [*lines, *(" ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest))]


def commands(path):
    """Commands of a page, or of a recipe's docstring or YAML file's head, as words without variables and ``$``."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        found = snippets(text)
    else:
        found = [re.split(r"\s+#\s", line)[0] for line in re.findall(r"^[# ] +(python .*)$", text, re.MULTILINE)]
    for line in found:
        for part in line.removeprefix("$ ").split(" && "):
            words = [part] if part.count("'") % 2 or part.count('"') % 2 else shlex.split(part)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words and Path(words[0]).name in ("python", "torchrun", "ser") and len(words) > 1:
                yield words


def every_command(tool):
    """Each command once, with the first place that names it."""
    found = {}
    for path in [*PAGES, *SOURCES]:
        for words in commands(path):
            if (words[0] == "ser") == (tool == "ser"):
                found.setdefault(tuple(words), path.relative_to(ROOT))
    return [pytest.param(words, id=f"{path}: {shlex.join(words)[:60]}") for words, path in found.items()]


@pytest.mark.parametrize("words", every_command("python"))
def test_a_command_names_a_script_and_options_that_exist(words):
    scripts = [at for at, word in enumerate(words) if word.endswith(".py")]
    if not scripts:
        pytest.skip("runs no script of ours: " + words[1])
    script, rest = words[scripts[0]], words[scripts[0] + 1:]
    assert (ROOT / script).is_file()
    if rest and rest[0].endswith(".yaml"):
        known = ["rnn" if before == "--head" and word in own_plugins() else word
                 for before, word in itertools.pairwise(rest)]
        experiment.load([str(ROOT / rest[0]), *known])  # refuses what it does not know
    else:
        source = "".join(path.read_text() for path in {ROOT / script, ROOT / "benchmarks/common.py"})
        own = rest[:rest.index("--")] if "--" in rest else rest
        for option in (word for word in own if word.startswith("--")):
            assert f'"{option}"' in source


def own_plugins():
    """Names that a page or an example registers itself, or that `ser new` makes."""
    text = "".join(path.read_text(encoding="utf-8") for path in [*PAGES, *(ROOT / "examples").glob("*/setup.py")])
    return {*re.findall(r"\b(\w+) = \w+:\w+", text), *re.findall(r"\bser new \w+ (\w+)", text)}


@pytest.mark.parametrize("words", every_command("ser"))
def test_a_command_of_ser_has_arguments_that_exist(words):
    if words[1] not in cli.COMMANDS:
        pytest.fail(f"no command {words[1]}")
    if len(words) == 2:
        return  # named in a sentence
    if words[1] in ("info", "check") and words[2].islower() and words[2] not in own_plugins():
        cli.group_of(words[2])
    with contextlib.redirect_stderr(io.StringIO()) as told:
        try:
            _, rest = cli._parser().parse_known_args(words[1:])
        except SystemExit:
            pytest.fail(told.getvalue())
    assert not rest or words[1] == "prepare"


def known_options():
    keys = set(experiment.RunOptions.__dataclass_fields__)
    for path in (ROOT / "hparams").glob("*.yaml"):
        keys |= set(re.findall(r"^(?:    )?(\w+):", path.read_text(), re.MULTILINE))
    sources = [*(ROOT / f"ser_plugins/{name}.py" for name in ("cli", "predict")), ROOT / "recipes/report.py",
               *(ROOT / "benchmarks").glob("*.py")]
    text = "\n".join(path.read_text() for path in sources)
    return FOREIGN | {f"--{key}" for key in [*keys, *cli.DECODING]} | set(re.findall(r"--[\w-]+", text))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_options_and_files_of_a_page_exist(path):
    text = "\n".join(snippets(path.read_text(encoding="utf-8")))
    unknown = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)) - known_options()
    assert not unknown
    files = set(WANTED.findall(text))
    here = (path.parent, ROOT)  # a package's README names files beside it too
    assert not [name for name in files if not any((base / name).exists() for base in here)]


def test_extras_exist():
    setup = (ROOT / "setup.py").read_text()
    extras = set(re.findall(r'^        "(\w+)": ', setup[setup.index("extras_require"):], re.MULTILINE))
    named = {name for path in PAGES for name in re.findall(r"(?:\.|ser_plugins)\[(\w+)\]", path.read_text())}
    assert named
    assert named <= extras


@pytest.mark.parametrize(("file", "told"), re.findall(r"^\| `hparams/(\w+)\.yaml` \|.*\| ([\d.]+ [kM]) \|",
                                                      (ROOT / "README.md").read_text(), re.MULTILINE))
def test_numbers_of_trained_parameters(file, told):
    values = experiment.load([str(ROOT / f"hparams/{file}.yaml")]).values
    head = registry.create("heads", values["head"], train_ser.head_options(values, frozenset()),
                           {"feature_dim": 27, "layer_dims": [512] * 5, "num_classes": 4})
    number = sum(parameter.numel() for parameter in head.parameters())
    amount, unit = told.split()
    assert round(number / {"k": 1e3, "M": 1e6}[unit], len(amount.partition(".")[2])) == float(amount)


def test_the_encoder_that_ships_has_as_many_parameters_as_told():
    told = re.search(r"The shipped encoder has ([\d.]+) M parameters", (ROOT / "README.md").read_text())[1]
    number = sum(parameter.numel() for parameter in DeepSpeech2.from_pretrained().parameters())
    assert f"{number / 1e6:.1f}" == told


@pytest.mark.parametrize("name", registry.installed("corpora"))
def test_options_of_a_corpus_are_told(name):
    row = re.search(rf"^\| `{name}` \|.*\| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)[1]
    told = [option.partition(":")[0] for option in re.findall(r"`([^`]+)`", row)]
    assert sorted(told) == sorted(registry.arguments(registry.load("corpora", name)))


def test_the_number_of_rules_is_told():
    told = re.findall(r"keeps all (\d+) rules", (ROOT / "examples/ser-head-attention/README.md").read_text())
    assert told == [str(len(RULES["heads"]))]


def code_cells(path):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, synthetic_folder, synthetic_corpus, tiny_encoder, tmp_path, monkeypatch):
    """On a smaller corpus and encoder: the first cell says which."""
    pytest.importorskip("IPython", reason="IPython is missing: pip install 'ser_plugins[docs]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, path.stem, module := ModuleType(path.stem))  # where pickle finds its classes
    space = module.__dict__
    first, *cells = code_cells(path)
    exec(first, space)
    assert synthetic_corpus.is_file()
    space.update({"DATA": str(synthetic_folder), "OPTIONS": {"speakers": 4, "sentences": 3}, "FOLDER": str(tmp_path),
                  "ENCODER": str(tiny_encoder), "SEEDS": (1,), "STEPS": 5})
    for number, cell in enumerate(cells, start=2):
        exec(compile(cell, f"{path.name}, code cell {number}", "exec"), space)
    if path.stem == "probe_layers":
        assert [len(results) for results in space["probes"].values()] == [3, 3]
        assert {means.shape for means in space["trained"].values()} == {(48, 32)}
        assert (tmp_path / "figure.png").is_file()
    else:
        assert {head.__name__ for head in space["runs"]} == {"MeanPooling", "MaskedSpread"}
        assert {len(one.ids) for runs in space["runs"].values() for one in runs} == {48}
        assert space["pair"].bootstrap.count == 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_without_traces(path):
    assert path.stat().st_size < 150_000
    text = path.read_text()
    assert str(Path.home()) not in text
    outputs = [one for cell in json.loads(text)["cells"] for one in cell.get("outputs", [])]
    assert not [one for one in outputs if one["output_type"] == "error" or one.get("name") == "stderr"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    for name in ("mkdocs", "material", "mkdocstrings_handlers.python", "mkdocs_jupyter"):
        pytest.importorskip(name, reason=f"{name} is missing: pip install 'ser_plugins[docs]'")
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the site's own packages
        patch.chdir(ROOT)
        patch.setitem(os.environ, "NO_MKDOCS_2_WARNING", "1")
        from mkdocs.commands.build import build
        from mkdocs.config import load_config

        build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder)))  # aborts where it warns
    return folder


class Loaded(html.parser.HTMLParser):
    """Addresses that a browser loads with a page by itself."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "link" and values.get("rel") in ("canonical", "next", "prev"):
            return
        if tag in ("script", "img", "link", "iframe", "source"):
            self.addresses += [values[name] for name in ("src", "href") if values.get(name)]


def test_the_site_loads_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        parser = Loaded()
        parser.feed(page.read_text(encoding="utf-8"))
        addresses = parser.addresses
        assert len(addresses) > 3
        assert not [one for one in addresses if re.match(r"(https?:)?//", one)], page
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.search(r"(url\(['\"]?|@import ['\"])(https?:)?//", styles)


def test_every_module_has_a_page_with_its_contents(site):
    for path in (ROOT / "ser_plugins").glob("[!_]*.py"):
        assert (site / f"reference/{path.stem}.html").is_file()
    page = (site / "reference/metrics.html").read_text(encoding="utf-8")
    assert 'id="ser_plugins.metrics.unweighted_accuracy"' in page
    assert "mean recall of the classes that have utterances" in page
    folds = (site / "reference/folds.html").read_text(encoding="utf-8")
    assert folds.count("Parameters:") == 1  # of `Arguments` in the docstring
    assert "Arguments" not in re.sub(r"<details.*?</details>", "", folds, flags=re.DOTALL)  # but in the source
    assert 'id="ser_plugins.store.Store.compute"' in (site / "reference/store.html").read_text(encoding="utf-8")


def test_the_site_has_the_commands_and_the_notebooks(site):
    commands_page = (site / "commands.html").read_text(encoding="utf-8")
    assert all(f"usage: ser {name}" in commands_page for name in cli.COMMANDS)
    assert "data:image/png" in (site / "notebooks/probe_layers.html").read_text(encoding="utf-8") or \
        list((site / "notebooks").rglob("*.png"))
    assert (site / "search/search_index.js").is_file()  # search without a server


def test_every_benchmark_is_in_the_table():
    page = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text("utf-8")}
    assert set(re.findall(r"^\| `(\w+\.py)` \|", page, re.MULTILINE)) == scripts
