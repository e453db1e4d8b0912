"""`ser new`: each kind of package installs, is found, keeps its contract and passes its own tests, as written."""

import importlib
import subprocess
import sys

import pytest
from test_example_plugin import reason_not_to_build

from ser_plugins import cli, registry, testing
from ser_plugins.errors import OptionError
from ser_plugins.new import GROUPS, create

KINDS = tuple(GROUPS)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Kind → the folder of a package whose plugin is called ``my_KIND2``."""
    parent = tmp_path_factory.mktemp("made")
    return {kind: create(kind, f"my_{kind}2", parent / "here") for kind in KINDS}


@pytest.fixture(scope="module")
def installed(made, tmp_path_factory):
    """All four on Python's path, installed by pip."""
    if reason_not_to_build():
        pytest.skip(reason_not_to_build())
    target = tmp_path_factory.mktemp("installed")
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
                           "--no-build-isolation", "--disable-pip-version-check", "--target", str(target),
                           *map(str, made.values())], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(target))
        importlib.invalidate_caches()
        yield target


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_installed_under_its_name_and_keeps_its_contract(kind, capsys):
    entry = registry.find(GROUPS[kind], f"my_{kind}2")
    assert registry.distribution(entry) == f"ser-{kind}-my-{kind}2 0.1.0"
    assert entry.value == f"ser_{kind}_my_{kind}2:My{kind.capitalize()}2{kind.capitalize()}"
    assert cli.main(["check", f"my_{kind}2"]) == 0
    assert f"'my_{kind}2' keeps all {len(testing.RULES[GROUPS[kind]])} rules" in capsys.readouterr().out
    with pytest.raises(OptionError, match=f"'my_{kind}2' is taken: it is a .* of ser-{kind}-my-{kind}2 0"):
        create(kind, f"my_{kind}2")


@pytest.mark.usefixtures("installed")
def test_its_own_tests_pass(made, capsys):
    tests = [str(folder / "test_contract.py") for folder in made.values()]
    words = ["-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--import-mode=importlib", "-W", "error"]
    assert pytest.main([*words, *tests]) == pytest.ExitCode.OK, capsys.readouterr().out
    assert "9 passed" in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_its_files_are_python_that_the_package_would_take(made, kind):
    module = next(made[kind].glob("ser_*.py"))
    assert {path.name for path in made[kind].iterdir()} >= {"setup.py", "README.md", "test_contract.py", module.name}
    text = (made[kind] / "README.md").read_text()
    assert f"ser check my_{kind}2" in text
    assert "{" not in text.replace('"{layer: 1}"', "").replace('"{quietest: -50.0}"', "")
    assert max(len(line) for line in module.read_text().splitlines()) <= 120


@pytest.mark.parametrize(("words", "message"), [
    (["haed", "mine"], "no kind of plugin 'haed'; did you mean 'head'? kinds: corpus, encoder, features, head"),
    (["head", "progressive"], "'progressive' is taken: it is a head of ser_plugins"),
    (["head", "emodb"], "'emodb' is taken: it is a corpus of ser_plugins"),
    (["head", "class"], "'class' is a word of Python: take letters"),
    *((["head", name], f"'{name}' is no plugin's name: take letters, digits and single underscores, a letter first, as "
                       "my_head") for name in ("", "2nd", "my-head", "my head", "../up", "_x", "x_", "x__y", "é")),
])
def test_bad_names_are_refused_and_nothing_is_written(tmp_path, capsys, words, message):
    assert cli.main(["new", *words, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"ser: error: {message}")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_is_left_as_it_is(tmp_path, capsys):
    assert cli.main(["new", "head", "mine", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "ser-head-mine"
    assert capsys.readouterr().out == f"{folder}\nnext: pip install -e {folder} && ser check mine\n"
    (folder / "setup.py").write_text("edited")
    assert cli.main(["new", "head", "mine", "--out", str(tmp_path)]) == 2
    assert f"{folder} exists: choose another name" in capsys.readouterr().err
    assert (folder / "setup.py").read_text() == "edited"
    (tmp_path / "file").touch()
    assert cli.main(["new", "head", "mine", "--out", str(tmp_path / "file")]) == 2
    assert "cannot be written: Not a directory" in capsys.readouterr().err
