"""The command ``ser``: lists, describes and checks plugins, prepares corpora, recognises emotions and transcribes.

Exit codes: 0, done; 1, done except for files that are named on standard error, or nobody reads the output any more;
2, a mistake in what was asked, told in one line. ``ser list`` imports no plugin, and neither torch nor SpeechBrain:
they are imported where a command needs them.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from typing import Any

from ser_plugins import __version__, predict, registry
from ser_plugins.errors import MissingExtraError, OptionError, PluginError, SerError, unknown_name

DECODING = {  # option of transcribe, absent where it is not given → type, and what it says of itself
    "beam_size": (int, "N", "beam search over N texts (default: 0, greedy)"),
    "lm": (str, "FILE", "for beam search, a word n-gram in ARPA's format"),
    "lm_weight": (float, "WEIGHT", "of the language model (default: 0.5)"),
    "word_bonus": (float, "BONUS", "for each word, beside a language model (default: 1.5)"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Arguments
    ---------
    arguments : Sequence[str], optional
        As in ``sys.argv[1:]``, which None stands for.

    Returns
    -------
    int
        The exit code.
    """
    try:
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:  # help ends by SystemExit
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has enough, as `ser … | head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed at the exit
        return 1


def _run(arguments: list[str]) -> int:
    try:
        if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
            raise OptionError(unknown_name("command", arguments[0], COMMANDS, "commands"))
        parser = _parser()
        options, rest = parser.parse_known_args(arguments)
        if options.command is None:
            parser.print_help()
            return 0
        if options.command == "prepare":
            options.options = parse_options(rest)
        elif rest:
            raise OptionError(f"'ser {options.command}' takes no argument '{rest[0]}'; see ser {options.command} -h")
        return COMMANDS[options.command](options)
    except SerError as error:
        print(f"ser: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ser", description="Speech emotion recognition over a frozen recogniser.",
                                     allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"ser_plugins {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, allow_abbrev=False)

    listing = command("list", "list the installed plugins")
    listing.add_argument("group", nargs="?", help=", ".join(registry.GROUPS))
    info = command("info", "describe a plugin: origin, arguments, defaults, documentation")
    info.add_argument("name", metavar="NAME")
    check = command("check", "check a plugin against its contract; without a name, every plugin")
    check.add_argument("name", metavar="NAME", nargs="?")
    for parser_of_plugin in (info, check):
        parser_of_plugin.add_argument("--group", help=f"its group: {', '.join(registry.GROUPS)}")
    new = command("new", "write the package of a plugin of your own, with its test")
    new.add_argument("kind", metavar="KIND", help="head, features, encoder or corpus")
    new.add_argument("name", metavar="NAME", help="of the plugin, as my_pooling")
    new.add_argument("--out", default=".", metavar="DIR", help="where the folder ser-KIND-NAME goes (default: here)")
    prepare = command("prepare", "read and validate a corpus and write its manifest; "
                                 "the reader's own options follow as --option value (ser info CORPUS lists them)")
    prepare.add_argument("corpus", metavar="CORPUS")
    prepare.add_argument("folder", metavar="FOLDER")
    prepare.add_argument("--out", required=True, metavar="DIR", help="where manifest.csv goes")
    predicting = command("predict", "transcript with times, and emotion, of audio files")
    predict.add_options(predicting)
    transcribe = command("transcribe", "transcript of audio files, one JSON line per file")
    transcribe.add_argument("--encoder", metavar="FOLDER", help="a trained encoder; by default the one shipped")
    for name, (kind, metavar, text) in DECODING.items():
        for parser_of_texts in (predicting, transcribe):
            parser_of_texts.add_argument(f"--{name}", type=kind, metavar=metavar, help=text, default=argparse.SUPPRESS)
    demo = command("demo", "a page in the browser on which to try a model; needs the extra [demo]")
    demo.add_argument("--model", metavar="MODEL", help="a run's folder, or a model folder (default: the one shipped)")
    demo.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine)")
    demo.add_argument("--name", metavar="HOST", help="what else browsers call it, as demo.example.org behind a proxy")
    demo.add_argument("--port", type=int, default=7860, help="0 is any free one (default: 7860)")
    demo.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, … (default: cpu)")
    imported = command("import-deepspeech", "make an encoder folder of a deepspeech.pytorch checkpoint")
    imported.add_argument("checkpoint", metavar="CHECKPOINT", help="a .pth (since July 2018) or Lightning's .ckpt")
    imported.add_argument("out", metavar="OUT", help="the folder to write")
    imported.add_argument("--padding", default="reflect", metavar="KIND",
                          help="of an utterance's ends in training: reflect (librosa until 0.8; the default) or zero")
    export = command("export", "write a trained system as one folder that is complete, and safe to share")
    export.add_argument("run", metavar="RUN_FOLDER", help="folder of a training run that has ended")
    export.add_argument("out", metavar="OUT", help="the folder to write")
    export.add_argument("--without_encoder", action="store_true",
                        help="a small folder, for readers who have the encoder installed; only of encoders that "
                             "bring their weights along, as deepspeech2 does")
    export.add_argument("--onnx", action="store_true", help="with model.onnx, for onnxruntime (extra [onnx])")
    push = command("push", "upload an exported folder to the Hugging Face Hub")
    push.add_argument("folder", metavar="OUT", help="a folder that ser export wrote")
    push.add_argument("repository", metavar="REPO_ID", help="owner/name; made where it does not exist")
    push.add_argument("--private", action="store_true", help="if it is made, for its owner alone")
    store = command("store", "what a store of frozen representations holds, and how to make room")
    store.add_argument("action", choices=("info", "prune"), help="list it; or remove what killed processes left, and "
                                                                 "the fingerprints that are named")
    store.add_argument("folder", metavar="STORE", help="as results/store")
    store.add_argument("fingerprints", nargs="*", metavar="FINGERPRINT")
    for parser_of_files in (predicting, transcribe):
        parser_of_files.add_argument("files", nargs="+", metavar="FILE", help="files, folders, or patterns in quotes")
        parser_of_files.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, … (default: cpu)")
    return parser


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Reads ``--option value`` and ``--option=value``; values are YAML.

    Arguments
    ---------
    words : Sequence[str]
        Words of the command line.

    Returns
    -------
    dict[str, Any]

    Raises
    ------
    OptionError
        A word that belongs to no option, an option without a value, twice the same, or a value that is no YAML.

    Example
    -------
    >>> parse_options(["--label_rule", "paper", "--merge_calm=true", "--speakers", "10"])
    {'label_rule': 'paper', 'merge_calm': True, 'speakers': 10}
    """
    from ruamel.yaml.error import YAMLError

    from ser_plugins.values import parse_value

    options: dict[str, Any] = {}
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise OptionError(f"'{word}' belongs to no option: write --option value or --option=value, "
                              "without spaces around '='")
        if not equals:
            if not remaining or remaining[0].startswith("--"):
                raise OptionError(f"option --{name} has no value: write --{name} value")
            value = remaining.pop(0)
        if name in options:
            raise OptionError(f"option --{name} is given twice")
        try:
            options[name] = parse_value(value)
        except YAMLError as error:
            raise OptionError(f"the value of --{name}, {value!r}, is no YAML: {error}") from error
    return options


def list_plugins(options: argparse.Namespace) -> int:
    """``ser list [group]``: name, distribution, version and class of every plugin; nothing is imported."""
    groups = [options.group] if options.group else registry.GROUPS
    found = {group: registry.installed(group) for group in groups}
    width = max((len(name) for names in found.values() for name in names), default=0)
    for group, names in found.items():
        print(group)
        for name, entries in names.items():
            print(f"  {name:{width}}  {_origin(entries)}")
        if not names:
            print("  (none)")
    return 0


def _origin(entries: Sequence[EntryPoint]) -> str:
    owners = " and ".join(f"{registry.distribution(entry)} ({entry.value})" for entry in entries)
    return owners if len(entries) == 1 else f"REGISTERED {len(entries)} TIMES, not usable: by {owners}"


def group_of(name: str, group: str | None = None) -> str:
    """The group that has a plugin of this name.

    Arguments
    ---------
    name : str
        A plugin's name.
    group : str, optional
        What the user says it is.

    Raises
    ------
    PluginError
        No group has it, or the one that the user says has not.
    OptionError
        Several groups have it.

    Example
    -------
    >>> group_of("progressive")
    'heads'
    """
    if group is not None:
        registry.find(group, name)
        return group
    names = {candidate: registry.installed(candidate) for candidate in registry.GROUPS}
    having = [candidate for candidate, found in names.items() if name in found]
    if not having:
        raise PluginError(unknown_name("plugin", name, set().union(*names.values()), "installed"))
    if len(having) > 1:
        raise OptionError(f"'{name}' is in the groups {' and '.join(having)}; choose by --group {having[0]}")
    return having[0]


def describe(options: argparse.Namespace) -> int:
    """``ser info NAME``: group, origin, needs, arguments with types and defaults, documentation."""
    group = group_of(options.name, options.group)
    entry = registry.find(group, options.name)
    plugin = registry.load(group, options.name)
    print(f"{registry.SINGULAR[group]} '{options.name}'")
    print(f"  distribution  {registry.distribution(entry)}")
    print(f"  class         {entry.value}")
    if hasattr(plugin, "needs"):
        print(f"  needs         {plugin.needs}")
    print("  arguments")
    for argument in registry.arguments(plugin).values():
        print(f"    {_argument(argument)}")
    print(f"\n{inspect.cleandoc(plugin.__doc__ or '(no documentation)')}")
    return 0


def _argument(argument: inspect.Parameter) -> str:
    annotation = "" if argument.annotation is argument.empty else f": {inspect.formatannotation(argument.annotation)}"
    default = "" if argument.default is argument.empty else f" = {argument.default!r}"
    return f"{argument.name}{annotation.replace(chr(39), '')}{default}"  # annotations are quoted where postponed


def check_plugins(options: argparse.Namespace) -> int:
    """``ser check [NAME]``: the contract's rules, one plugin or all; broken ones do not hide the others."""
    if options.name:
        chosen = [(group_of(options.name, options.group), options.name)]
    else:
        groups = [options.group] if options.group else registry.GROUPS
        chosen = [(group, name) for group in groups for name in registry.installed(group)]
    from ser_plugins import testing

    broken: list[tuple[str, PluginError]] = []
    for group, name in chosen:
        try:
            testing.check(group, name)
            print(f"{registry.SINGULAR[group]} '{name}' keeps all {len(testing.RULES[group])} rules", flush=True)
        except PluginError as error:
            lacking = error if isinstance(error, MissingExtraError) else error.__cause__
            if len(chosen) > 1 and isinstance(lacking, MissingExtraError):
                print(f"not checked: {lacking}", flush=True)
                continue
            broken.append((name, error))
            if len(chosen) > 1:
                print(f"BROKEN: {error}", flush=True)
    if broken:
        raise broken[0][1] if len(chosen) == 1 else PluginError(
            f"{len(broken)} of {len(chosen)} plugins are broken: {', '.join(name for name, _ in broken)}")
    return 0


def new_plugin(options: argparse.Namespace) -> int:
    """``ser new KIND NAME``: writes the package of a plugin, prints where it lies and what to do next."""
    from ser_plugins.new import create

    folder = create(options.kind, options.name, options.out)
    print(f"{folder}\nnext: pip install -e {folder} && ser check {options.name}")
    return 0


def prepare_corpus(options: argparse.Namespace) -> int:
    """``ser prepare CORPUS FOLDER --out DIR``: writes the manifest, prints its counts and where it lies."""
    from ser_plugins.corpora import manifest

    path = manifest.prepare(options.corpus, options.folder, options.out, options.options)
    print(manifest.report(path))
    print(path)
    return 0


def predict_files(options: argparse.Namespace) -> int:
    """``ser predict FILES…``: transcript and emotion in one pass each."""
    return predict.run(options, _decoding(options))


def transcribe_files(options: argparse.Namespace) -> int:
    """``ser transcribe FILES…``: transcripts."""
    from ser_plugins.inference import SpeechRecognizer
    from ser_plugins.values import check_device

    check_device(options.device)
    recognizer = SpeechRecognizer.from_hparams(options.encoder, {"device": options.device}, **_decoding(options))
    return _each_file(predict.audio_files(options.files), lambda path: {"text": recognizer.transcribe_file(path)})


def _decoding(options: argparse.Namespace) -> dict[str, Any]:
    """The options of `DECODING` that are given."""
    return {key: value for key, value in vars(options).items() if key in DECODING}


def show_demo(options: argparse.Namespace) -> int:
    """``ser demo``: serves the page until it is interrupted."""
    from ser_plugins import demo

    demo.serve(options.model, options.host, options.port, options.device, options.name)
    return 0


def import_deepspeech(options: argparse.Namespace) -> int:
    """``ser import-deepspeech CHECKPOINT OUT``: writes an encoder folder, prints where it lies."""
    from ser_plugins.encoders.import_deepspeech import import_checkpoint

    print(import_checkpoint(options.checkpoint, options.out, options.padding))
    return 0


def export_run(options: argparse.Namespace) -> int:
    """``ser export RUN_FOLDER OUT``: writes a complete model folder, prints where it lies."""
    from ser_plugins.export import export_model

    print(export_model(options.run, options.out, options.onnx, with_encoder=not options.without_encoder))
    return 0


def push_folder(options: argparse.Namespace) -> int:
    """``ser push OUT REPO_ID``: uploads it, prints its address."""
    from ser_plugins.export import push_model

    print(push_model(options.folder, options.repository, options.private))
    return 0


def look_at_store(options: argparse.Namespace) -> int:
    """``ser store``."""
    from ser_plugins import store

    if options.action == "prune":
        print(f"{store.prune(options.folder, options.fingerprints) / 1e6:.1f} MB removed")
        return 0
    if options.fingerprints:
        raise OptionError("'ser store info' lists all fingerprints, and takes none")
    for one in store.contents(options.folder):
        arrays, size = (sum(numbers) for numbers in zip(*one.kinds.values(), strict=True))
        whose = one.about.get("class", "of an earlier version")
        print(f"{one.fingerprint}  {whose}: {arrays} arrays, {size / 1e6:.1f} MB")
        for kind, (number, kind_size) in one.kinds.items():
            print(f"    {kind:<10} {number:>8} {kind_size / 1e6:>10.1f} MB")
    return 0


def _each_file(files: Sequence[str], answer: Callable[[str], dict[str, Any]]) -> int:
    """Prints one JSON line per file, of a file that cannot be read to standard error; 1 if there was one."""
    failed = False
    for path in files:
        try:
            print(json.dumps({"file": path, **answer(path)}, ensure_ascii=False), flush=True)
        except SerError as error:
            failed = True
            print(json.dumps({"file": path, "error": str(error)}, ensure_ascii=False), file=sys.stderr, flush=True)
    return int(failed)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": list_plugins, "info": describe, "check": check_plugins, "new": new_plugin,
    "prepare": prepare_corpus, "predict": predict_files, "transcribe": transcribe_files,
    "import-deepspeech": import_deepspeech, "store": look_at_store,
    "export": export_run, "push": push_folder, "demo": show_demo,
}

if __name__ == "__main__":
    sys.exit(main())
