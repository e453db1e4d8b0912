"""Scripts as programs of their own, forked from a process that has imported torch and other libraries once.

A script runs as ``python script.py words`` runs it: as ``__main__``, in a session of its own, which can be killed. It
is spared the seconds of the imports. The process that forks does nothing else, and imports nothing of ours: what our
modules read as they are imported, such as torchrun's variables, they read in the program.
"""

import atexit
import contextlib
import functools
import multiprocessing
import os
import resource
import runpy
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

IMPORTED = ("torch", "speechbrain", "torch.nn.parallel", "torch.utils.data", "hyperpyyaml", "numba", "sentencepiece",
            "safetensors.torch", "matplotlib.figure", "scipy.stats", "sklearn.pipeline", "sklearn.model_selection",
            "speechbrain.inference.interfaces", "speechbrain.decoders.ctc", "speechbrain.utils.metric_stats")


@dataclass(frozen=True)
class Done:
    """What is left of programs that ended: exit codes, negative of signals, of those that failed, or (0,); output."""

    codes: tuple[int, ...]
    stdout: str
    stderr: str


@functools.cache
def _context():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):  # before Python 3.14 it has no other way
        forkserver.ensure_running()
    return context


def start(script, words, stdout, stderr=None, environment=None, file_size=None):
    """Starts a script.

    Arguments
    ---------
    script : Path
        A Python file.
    words : Sequence
        Its command line.
    stdout, stderr : Path
        Files that its output is added to; without ``stderr``, both are one.
    environment : Mapping[str, str], optional
        What its environment has beside this one.
    file_size : int, optional
        Bytes that no file of it can grow over.

    Returns
    -------
    multiprocessing.Process
        It leads a process group.
    """
    process = _context().Process(target=_run, args=(
        [str(script), *map(str, words)], str(stdout), str(stderr or stdout), {**os.environ, **(environment or {})},
        file_size))
    process.start()
    return process


def kill(process):
    """Kills a program and its children at once, by SIGKILL, and waits for its end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def living(process):
    """The processes of a program's group that still run, the program too; Linux only."""
    group = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, _, leader = file.read_text().rpartition(")")[2].split()[:3]
            if int(leader) == process.pid and state != "Z":
                group.append(int(file.parent.name))
    return group


def run(script, words, timeout=600, processes=None, environment=None, file_size=None):
    """Runs a script until it ends, as `start`.

    Arguments
    ---------
    timeout : float
        Seconds after which it has hung.
    processes : int, optional
        So many of them, which find each other as torchrun's do; when one fails, the others are killed.

    Returns
    -------
    Done
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdout", "stderr")]
        for file in files:
            file.touch()
        group = [start(script, words, *files, {**(environment or {}), **rank}, file_size) for rank in _ranks(processes)]
        try:
            end = time.monotonic() + timeout
            while any(one.is_alive() for one in group) and not any(one.exitcode for one in group):
                assert time.monotonic() < end, "it hangs:\n" + "".join(file.read_text() for file in files)
                time.sleep(0.01)
            codes = tuple(one.exitcode for one in group if one.exitcode)
        finally:
            for one in group:
                kill(one)
        return Done(codes or (0,), *(file.read_text() for file in files))


def _ranks(number):
    """What torchrun tells each of its processes; nothing where there is one alone."""
    if number is None:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{key: str(value) for key, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
            for rank in range(number)]


def _run(words, stdout, stderr, environment, file_size):
    os.setsid()
    for file, descriptor in ((stdout, 1), (stderr, 2)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    sys.argv = words
    sys.path[:0] = [str(Path(words[0]).parent), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    code: object = None
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # what Python does when a program ends, and multiprocessing leaves out: libraries stop their
    atexit._run_exitfuncs()  # workers there, for which multiprocessing would wait
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)
