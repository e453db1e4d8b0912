"""`ser new`: the package of a plugin, with its contract test and README, green as written."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from ser_plugins import registry
from ser_plugins.errors import OptionError, unknown_name

GROUPS = {"head": "heads", "features": "features", "encoder": "encoders", "corpus": "corpora"}  # kind → group
NAME = re.compile(r"[A-Za-z](_?[A-Za-z0-9]+)*")  # what is a plugin's, a module's and, with hyphens, a package's name
USES = {
    "head": "Train it: `python recipes/train_ser.py hparams/rnn.yaml --head {name}`; its own arguments go in "
            "`--head_options \"{{layer: 1}}\"`.",
    "features": "Use it: `python recipes/train_ser.py hparams/baseline.yaml --features {name}`; its arguments go in "
                "`--feature_options \"{{quietest: -50.0}}\"`.",
    "encoder": "Use it: `python recipes/train_ser.py hparams/mp.yaml --layer 2 --encoder {name}`, or with the folder "
               "of trained weights in place of the name.",
    "corpus": "Use it: `ser prepare {name} FOLDER --out DIR`, then `python recipes/train_ser.py hparams/mp.yaml "
              "--corpus {name} --data_folder FOLDER`.",
}


def create(kind: str, name: str, parent: str | Path = ".") -> Path:
    """Writes a package that pip installs.

    Arguments
    ---------
    kind : str
        ``head``, ``features``, ``encoder`` or ``corpus``.
    name : str
        The plugin's name: letters, digits and single underscores, a letter first.
    parent : str | Path
        The folder in which ``ser-KIND-NAME`` is made.

    Returns
    -------
    Path
        The package's folder.

    Raises
    ------
    OptionError
        An unknown kind, a name that cannot be one or is taken, or a folder that exists or cannot be made.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sorted(path.name for path in create("head", "my_pooling", folder).iterdir())
    ['README.md', 'ser_head_my_pooling.py', 'setup.py', 'test_contract.py']
    """
    if kind not in GROUPS:
        raise OptionError(unknown_name("kind of plugin", kind, GROUPS, "kinds"))
    _check_name(kind, name)
    module = f"ser_{kind}_{name}"
    folder = Path(parent) / module.replace("_", "-")
    values = {"name": name, "module": module, "distribution": folder.name, "group": GROUPS[kind],
              "title": registry.SINGULAR[GROUPS[kind]].capitalize(), "use": USES[kind].format(name=name),
              "class_name": "".join(part[0].upper() + part[1:] for part in name.split("_")) + kind.capitalize()}
    templates = Environment(loader=PackageLoader("ser_plugins", "assets/new"), undefined=StrictUndefined,
                            keep_trailing_newline=True, autoescape=False)
    files = {"setup.py": "setup.py", "README.md": "README.md", f"{module}.py": f"{kind}.py",
             "test_contract.py": f"{kind}_test.py"}
    texts = {file: templates.get_template(f"{template}.jinja").render(values) for file, template in files.items()}
    try:
        folder.mkdir(parents=True)
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
    except FileExistsError as error:
        raise OptionError(f"{folder} exists: choose another name, or another place by --out DIR") from error
    except OSError as error:
        raise OptionError(f"{error.filename} cannot be written: {error.strerror}") from error
    return folder


def _check_name(kind: str, name: str) -> None:
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        why = "a word of Python" if keyword.iskeyword(name) else "no plugin's name"
        raise OptionError(f"'{name}' is {why}: take letters, digits and single underscores, a letter first, as "
                          f"my_{kind}")
    for group in registry.GROUPS:
        if name in registry.installed(group):
            owner = registry.distribution(registry.installed(group)[name][0])
            raise OptionError(f"'{name}' is taken: it is a {registry.SINGULAR[group]} of {owner}")
