"""Many runs of recipes side by side: in processes of this machine, by joblib, or on a Dask or Ray cluster.

A worker needs this package, and the files of recipe and data under the same paths.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import io
import json
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from ser_plugins import experiment, protocol
from ser_plugins.errors import OptionError, SerError
from ser_plugins.files import write_atomically
from ser_plugins.values import told_value

BACKENDS = ("loky", "ray", "dask", "sequential")
LEFT = ("predictions.csv", "predictions_valid.csv", "metrics.json", "seconds.json")  # by a finished run
POLL = 1.0  # s, between looks at a unit that another process trains, and at the parent
KILLED = "its process was killed more than once; was the memory full? fewer --jobs need less"


@dataclass(frozen=True)
class Unit:
    """One run: system, fold and seed, and what a worker needs for it.

    Arguments
    ---------
    system, test : str
        Its names in tables: the system, and the speaker (or corpus) that is tested.
    seed : int
        Also the number of the run.
    recipe : str
        File of a recipe, which has ``load``, ``build`` and ``train``.
    words : tuple[str, ...]
        The recipe's command line, but for fold, seed and folder.
    folder : str
        The run's folder.
    manifests : tuple[str, ...]
        Of the corpus, and of another one that is tested.
    key : str
        Hash of the settings that its folder is named by.
    home, recipes : str
        The working directory, which relative paths start from, and the folder of the recipes, which others import.
    """

    system: str
    test: str
    seed: int
    recipe: str
    words: tuple[str, ...]
    folder: str
    manifests: tuple[str, ...]
    key: str
    home: str
    recipes: str

    @property
    def finished(self) -> bool:
        """Whether the run has left all its results; that they are of these settings, its folder's name says."""
        return all((Path(self.folder) / name).is_file() for name in LEFT)


def load_recipe(file: str | Path) -> Any:
    """The module of a recipe's file."""
    path = Path(file)
    if not path.is_file():
        raise OptionError(f"no recipe {path}")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # where it finds its neighbours
    module = importlib.import_module(path.stem)
    if Path(str(module.__file__)).resolve() != path.resolve():
        raise OptionError(f"recipe {path} has the name of {module.__file__}: give it another")
    return module


def build(file: str | Path, recipes: str | Path, exp: experiment.Experiment) -> protocol.System:
    """A recipe's system; a hash of the recipe's file tells one that lies outside the folder of ``recipes``."""
    system = load_recipe(file).build(exp)
    if Path(file).resolve().parent == Path(recipes).resolve():  # of these, `protocol.VERSION` tells
        return system
    code = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    return replace(system, code={**system.code, "recipe_code": code})


def run(unit: Unit) -> str | None:
    """Trains and tests one unit in this process; what it prints goes to ``output.txt``. Returns its error, if any.

    A unit that another process trains is waited for: the command may have been given twice.
    """
    import torch
    from speechbrain.utils import logger

    os.chdir(unit.home)
    if unit.recipes not in sys.path:
        sys.path.insert(0, unit.recipes)
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    once = mock.patch.object(logger, "get_environment_description", _environment)  # SpeechBrain asks pip in every run
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(output), once:
        try:
            _train(unit)
        except SerError as error:
            return str(error)
        except (Exception, SystemExit):  # a recipe of another's may call sys.exit
            return output.getvalue()[-2000:] + traceback.format_exc()
        finally:
            folder = Path(unit.folder)
            if (folder / experiment.STAMP).is_file():  # without it, the folder would be no run's
                with contextlib.suppress(SerError):  # a full disk has been told
                    write_atomically(folder / "output.txt", lambda file: file.write(output.getvalue()))
    return None


def _train(unit: Unit) -> None:
    recipe = load_recipe(unit.recipe)
    exp = recipe.load([*unit.words, "--seed", str(unit.seed), "--output_folder", told_value(unit.folder)])
    planned = recipe.load(unit.words)
    rows, test_rows = protocol.prepared_rows(unit.manifests, planned.values)
    (fold,) = [one for one in protocol.all_folds(rows, planned.values) if one.test == unit.test]
    settings = protocol.run_settings(planned, build(unit.recipe, unit.recipes, planned), [*rows, *test_rows], fold)
    if protocol.run_key(settings, fold, unit.seed) != unit.key:
        raise OptionError("corpus, settings or packages are not those of the plan any more; start again")
    folder, system = Path(unit.folder), build(unit.recipe, unit.recipes, exp)
    while not unit.finished:
        started = time.perf_counter()
        try:
            recipe.train(exp, system, rows, test_rows, fold, folder)
        except experiment.RunTaken:
            time.sleep(POLL)
        else:
            write_atomically(folder / "seconds.json", functools.partial(json.dump, time.perf_counter() - started))
            return


@functools.cache
def _environment() -> str:
    from importlib.metadata import distributions

    lines = sorted(f"{one.metadata['Name']}=={one.version}" for one in distributions())
    return "\n".join([f"Python {sys.version}", *lines])


def run_all(units: Sequence[Unit], jobs: int, backend: str = "loky") -> Iterator[tuple[Unit, str | None]]:
    """Runs units side by side; gives each with its error as it ends.

    A process that is killed, as by a full memory, takes others along: the runs under way go on, each by itself.

    Arguments
    ---------
    units : Sequence[Unit]
        The runs.
    jobs : int
        Runs at a time; on a cluster that runs already, it decides.
    backend : str
        ``"loky"``, processes of this machine; ``"ray"`` or ``"dask"``, the cluster at ``RAY_ADDRESS`` or
        ``DASK_SCHEDULER_ADDRESS``, or without an address one that is started here; ``"sequential"``, this process,
        one after the other, for a debugger.

    Raises
    ------
    OptionError
        As of `check_backend`.
    """
    check_backend(backend)
    yield from {"loky": _loky, "ray": _ray, "dask": _dask, "sequential": _sequential}[backend](units, jobs)


def check_backend(backend: str) -> None:
    """Refuses a backend whose package is not installed.

    Raises
    ------
    OptionError
    """
    package = {"ray": "ray", "dask": "distributed"}.get(backend)
    if package is not None and importlib.util.find_spec(package) is None:
        raise OptionError(f"--backend {backend}: {package} is missing; pip install 'ser_plugins[{backend}]'")


def _sequential(units: Sequence[Unit], jobs: int) -> Iterator[tuple[Unit, str | None]]:
    return map(_named, units)


def _loky(units: Sequence[Unit], jobs: int) -> Iterator[tuple[Unit, str | None]]:
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    if jobs == 1:  # joblib's one job is this process, which a full memory would end
        yield from _one_by_one(units)
        return
    waiting, under_way = list(units), list[Unit]()

    def started() -> Iterator[Any]:
        while waiting:
            under_way.append(waiting.pop(0))
            yield delayed(_child)(under_way[-1], os.getpid())

    with parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
        while waiting:
            try:
                parallel = Parallel(return_as="generator_unordered", pre_dispatch=jobs, batch_size=1)
                for unit, error in parallel(started()):
                    under_way.remove(unit)
                    yield unit, error
            except TerminatedWorkerError:
                yield from _one_by_one(under_way, killed=under_way)
                under_way.clear()


def _one_by_one(units: Sequence[Unit], killed: Iterable[Unit] = ()) -> Iterator[tuple[Unit, str | None]]:
    """Runs units in one process beside this one, and where that is killed, in another; ``killed`` ones once more."""
    waiting, suspects = list(units), set(killed)
    while waiting:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            while waiting:
                unit = waiting.pop(0)
                try:
                    yield pool.submit(_child, unit, os.getpid()).result()
                except BrokenProcessPool:
                    if unit in suspects:
                        yield unit, KILLED
                    else:
                        suspects.add(unit)
                        waiting.insert(0, unit)
                    break
                except BaseException:  # Ctrl-C reaches the child too, SIGTERM does not: its end would be waited for
                    for child in multiprocessing.active_children():
                        child.terminate()
                    raise


def _dask(units: Sequence[Unit], jobs: int) -> Iterator[tuple[Unit, str | None]]:
    """By Dask's own interface: joblib's backend for it waits for ever where a worker is killed again and again."""
    import dask
    from dask.distributed import Client, KilledWorker, as_completed

    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    here = {"n_workers": jobs, "threads_per_worker": 1, "dashboard_address": None}
    once = {"distributed.scheduler.allowed-failures": 0}  # of the cluster started here: Dask would let four workers die
    with dask.config.set(once), Client(address) if address else Client(**here) as client:
        threads = set(client.nthreads().values())
        if threads - {1}:  # random numbers and standard output are a process's
            raise OptionError(f"the Dask workers at {address} have {max(threads)} threads: start them with "
                              "--nthreads 1, and --nworkers for more at a time")
        waiting, alone = list(units), False
        while waiting:
            suspects = list[Unit]()
            for batch in [[unit] for unit in waiting] if alone else [waiting]:
                futures = {client.submit(_named, unit, pure=False): unit for unit in batch}
                for future in as_completed(list(futures)):
                    unit, error = futures.pop(future), future.exception()
                    if error is None:
                        yield future.result()
                    elif isinstance(error, KilledWorker) and not alone:
                        suspects.append(unit)
                    else:
                        yield unit, KILLED if isinstance(error, KilledWorker) else str(error)
            waiting, alone = suspects, True  # Dask blames all that a killed worker had been given: each by itself now


def _ray(units: Sequence[Unit], jobs: int) -> Iterator[tuple[Unit, str | None]]:
    """By Ray's own interface: joblib's backend for it gives no result before all are there."""
    import ray

    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            ray.init(num_cpus=None if "RAY_ADDRESS" in os.environ else jobs, log_to_driver=False,
                     include_dashboard=False)
            stack.callback(ray.shutdown)
        remote = ray.remote(max_retries=1)(_named)
        pending = {remote.remote(unit): unit for unit in units}
        while pending:
            (done,), _ = ray.wait(list(pending))
            unit = pending.pop(done)
            try:
                yield ray.get(done)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                yield unit, KILLED
            except ray.exceptions.RayError as error:
                yield unit, str(error)


def _named(unit: Unit) -> tuple[Unit, str | None]:
    return unit, run(unit)


def _child(unit: Unit, parent: int) -> tuple[Unit, str | None]:
    """`_named` in a process that ends when its parent does, however that ends: SIGKILL tells nobody."""
    _end_with(parent)
    return _named(unit)


@functools.cache
def _end_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
