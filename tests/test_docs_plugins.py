"""The code of docs/plugins.md runs as it stands there."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

from ser_plugins import registry, testing
from ser_plugins.contracts import Encoding
from ser_plugins.errors import PluginError

PAGE = (Path(__file__).parents[1] / "docs/plugins.md").read_text(encoding="utf-8")


def test_the_head_in_twelve_lines_keeps_the_contract(tmp_path, monkeypatch):
    head, check = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    assert head.count("\n") == 12
    (tmp_path / "head_of_page.py").write_text(head)  # a module, since the check pickles the head
    monkeypatch.syspath_prepend(str(tmp_path))
    page = importlib.import_module("head_of_page")
    exec(check, {"MyPooling": page.MyPooling})
    testing.check_head(page.MyPooling, {"layer": 5})
    monkeypatch.setattr(page.MyPooling, "forward", lambda self, inputs: self.output(
        inputs.sequences[self.layer].data.mean(dim=1)))
    with pytest.raises(PluginError, match="padding or another utterance reaches the result") as caught:
        exec(check, {"MyPooling": page.MyPooling})
    shown = " ".join(re.search(r"^BROKEN: (.*?)```", PAGE, flags=re.S | re.M)[1].split())
    number = r"differ by [\d.e-]+ \(allowed [\d.e-]+\)"
    assert re.sub(number, "", str(caught.value)) == re.sub(number, "", shown).replace("'mine'", "'MyPooling'")


def test_the_plugins_that_it_names_are_installed():
    for head in ("mp", "attention_pool", "weighted_layers", "progressive", "linguistic"):
        assert f"`{head}`" in PAGE
        registry.find("heads", head)
    for path in re.findall(r"`(ser_plugins/[\w/]+\.py)`", PAGE):
        assert (Path(__file__).parents[1] / path).is_file(), path


def test_the_encodings_that_it_builds_have_fields_of_these_names():
    fields = {field.name for field in dataclasses.fields(Encoding)}
    calls = re.findall(r"`Encoding\(([^)`]*)\)`", PAGE)
    assert calls
    assert {name.strip() for call in calls for name in call.split(",")} <= fields
