"""A recipe's command line beside its YAML file: which keys there are, and what was given; nothing is built.

It imports neither torch nor SpeechBrain, which take seconds: a recipe calls `refuse_mistakes` before it imports them,
so that a misspelt name is told at once.
"""

from __future__ import annotations

import ast
import difflib
import errno
import functools
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from safetensors import SafetensorError

from ser_plugins import registry
from ser_plugins.errors import OptionError, SerError, unknown_name
from ser_plugins.values import parse_value

USAGE = ("usage: python recipes/RECIPE.py HPARAMS.yaml [--key value]…; the keys are those of the YAML file, which "
         "--help after it shows, and SpeechBrain's run options such as --device and --debug")
PLUGIN_KEYS = {"corpus": "corpora", "test_corpus": "corpora", "features": "features", "head": "heads"}


def refuse_mistakes(check: Callable[[Sequence[str]], object] | None = None) -> None:
    """Ends the program where its command line holds a mistake that shows without torch, as `run` does, or --help.

    ``check`` looks for more than `read` does.
    """
    words = sys.argv[1:]
    if {"-h", "--help"} & {*words}:
        print(help_text(str(sys.modules["__main__"].__doc__), words))
        sys.exit(0)
    run(check or read)


def help_text(documentation: str, argv: Sequence[str]) -> str:
    """A recipe's documentation; then its YAML file, and the one that it varies, which explain the options."""
    file = next((path for path in map(Path, argv) if path.is_file()), None)
    if file is None:
        return f"{documentation}\n{USAGE}"
    text = file.read_text(encoding="utf-8")
    name = _included(_parsed(text))
    files = [file] if name is None else [file, file.parent / name]
    return "\n".join([documentation, "Every key of the YAML file is an option, as --key VALUE:", *(
        f"\n# --- {one} ---\n{one.read_text(encoding='utf-8')}" for one in files if one.is_file())])


def run(main: Callable[[Sequence[str]], object]) -> None:
    """Runs a recipe's main with the command line; a user's error is one sentence and exit code 2."""
    try:
        main(sys.argv[1:])
    except SerError as error:
        message = str(error)
    except (OSError, SafetensorError) as error:
        message = storage_error(error)
        if not message:
            raise
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)
    else:
        return
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def read(argv: Sequence[str]) -> tuple[Path, dict[str, Any], list[str]]:
    """Reads ``RECIPE.yaml [--key value | --key=value | --run_option]…``.

    Returns
    -------
    tuple[Path, dict[str, Any], list[str]]
        The file, the values of its keys that are given, and SpeechBrain's run options as words.

    Raises
    ------
    OptionError
        The file is missing or no YAML, a key or run option is unknown (the nearest is named), a value is missing, or
        an ``=`` stands alone.
    PluginError
        A corpus, feature extractor or head of this name is not installed.
    """
    if not argv or argv[0].startswith("-"):
        raise OptionError(USAGE)
    file = Path(argv[0])
    if not file.is_file():
        raise OptionError(f"{file}: no such YAML file; the first argument is one of hparams/*.yaml")
    keys = experiment(tree(file))
    given, run_arguments = _split(argv[1:], list(keys))
    if "regimes" in keys:
        regime = given.get("regime", keys["regime"])
        if str(regime) not in keys["regimes"]:
            raise OptionError(unknown_name("regime", str(regime), keys["regimes"], "known"))
    for key, group in PLUGIN_KEYS.items():
        if given.get(key) is not None:
            registry.find(group, str(given[key]))
    return file, given, run_arguments


def is_variation(content: Mapping[str, Any]) -> bool:
    """Whether a file's tree is one experiment that it includes from another, and varies."""
    return list(content) == ["experiment"]


def experiment(content: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the experiment, which a variation has one level down."""
    return content["experiment"] if is_variation(content) else dict(content)


def tree(file: Path) -> dict[str, Any]:
    """The YAML's keys and plain values; nothing is constructed, and placeholders are left alone.

    Raises
    ------
    OptionError
        It is no YAML, holds no keys, or varies a file that is not beside it, or that lacks one of its keys.
    """
    try:
        content = _parsed(file.read_text(encoding="utf-8"))
        if not isinstance(content, Mapping):
            raise OptionError(f"{file} holds no keys")
        included, name = content.get("experiment", {}), _included(content)
        if name is None:
            return dict(content)
        if not (file.parent / name).is_file():
            raise OptionError(f"{file} is a variation of {name}, which is not beside it in {file.parent}: put both "
                              "into one folder")
        base = _parsed((file.parent / name).read_text(encoding="utf-8"))
    except (YAMLError, OSError) as error:
        raise OptionError(f"{file} is not valid YAML: {error}") from error
    for key in included:
        if key not in base:
            raise OptionError(f"{file}: {unknown_name('key', key, base, f'keys of {name}')}")
    return {"experiment": {**base, **included}}


def base_tree(file: Path) -> dict[str, Any]:
    """The file, or of a variation the experiment that it varies: what it leaves null is free."""
    name = _included(_parsed(file.read_text(encoding="utf-8")))
    return tree(file if name is None else file.parent / name)


def variation_keys(file: Path) -> frozenset[str]:
    """What a variation names itself; its base's keys are not in it."""
    content = _parsed(file.read_text(encoding="utf-8"))
    return frozenset(content["experiment"] or ()) if is_variation(content) else frozenset()


def _included(content: Mapping[str, Any]) -> str | None:
    """The name of the file that a variation includes; None of a whole experiment."""
    tag = getattr(getattr(content.get("experiment"), "tag", None), "value", None) or ""
    return tag.removeprefix("!include:") if tag.startswith("!include:") else None


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> Any:
    """YAML with its tags and comments, one object for all callers.

    A plan reads the same few files for each of its systems, and parsing would take most of that time.
    """
    return YAML().load(text)


@functools.cache
def run_options() -> dict[str, Any]:
    """SpeechBrain's run options and their defaults; None also stands for one that is computed.

    They are read from its source: an import of SpeechBrain takes seconds.
    """
    package = find_spec("speechbrain")
    assert package is not None
    assert package.origin is not None
    source = (Path(package.origin).parent / "utils/run_opts.py").read_text(encoding="utf-8")
    (options,) = (node for node in ast.parse(source).body
                  if isinstance(node, ast.ClassDef) and node.name == "RunOptions")
    fields = {node.target.id: node.value for node in options.body
              if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    return {name: value.value if isinstance(value, ast.Constant) else None for name, value in fields.items()
            if name not in ("param_file", "overridden_args")}


def _split(arguments: Sequence[str], keys: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Divides the command line into overrides of YAML keys and SpeechBrain's run options."""
    options = run_options()
    given: dict[str, Any] = {}
    run_arguments: list[str] = []
    rest = list(arguments)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--") or token == "--":
            raise OptionError(f"unexpected '{token}'; options are written --key value or --key=value, "
                              "without spaces around '='")
        key, equals, value = token[2:].partition("=")
        if key not in keys and key not in options:
            close = difflib.get_close_matches(key, [*keys, *options], n=1)
            guess = f"; did you mean '--{close[0]}'?" if close else ";"
            raise OptionError(f"no option '--{key}'{guess} keys of this YAML file: {', '.join(sorted(keys))}; "
                              "SpeechBrain's run options (--device, --debug, --noprogressbar, …) are taken too")
        if options.get(key) is False and key not in keys:
            run_arguments.append(token)
            continue
        if not equals:
            if not rest or rest[0].startswith("--") or rest[0] == "=":
                raise OptionError(f"--{key} needs a value: --{key} VALUE or --{key}=VALUE, without spaces around '='")
            value = rest.pop(0)
        if key in keys:
            try:
                given[key] = parse_value(value)
            except YAMLError as error:
                words = [value, *itertools.takewhile(lambda word: not word.startswith("--"), rest)]
                whole = " ".join(words)
                hint = (f"--{key}: '{value}' is only the first of {len(words)} words; has it lost its quotes? "
                        f'--{key} "{whole}"') if len(words) > 1 else (
                            f"--{key}: '{value}' is not a YAML value: {error}")
                raise OptionError(hint) from error
        else:
            run_arguments.append(f"--{key}={value}")
    return given, run_arguments


def storage_error(error: Exception) -> str:
    """What a failure to write a file is to the user; empty for an error of another kind.

    Example
    -------
    >>> storage_error(OSError(28, "No space left on device"))
    'No space left on device; is the folder writable and the disk not full?'
    """
    hint = "is the folder writable and the disk not full?"
    if isinstance(error, OSError):
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            return ""
        return f"{error.filename}: {error.strerror}; {hint}" if error.filename else f"{error.strerror}; {hint}"
    return f"{error}; {hint}"
