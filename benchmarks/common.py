"""What the benchmarks share: the line about the machine, tables in Markdown, the command line, memory of a process."""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import torch

HPARAMS = Path(__file__).parents[1] / "hparams"
RECIPES = Path(__file__).parents[1] / "recipes"
KILOBYTE = 1 if sys.platform == "darwin" else 1024  # unit of ru_maxrss, bytes


def describe() -> str:
    """Cores, CPU, GPU if any, torch, threads of this process, date: one line."""
    try:
        models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")]
    except OSError:
        models = []
    model = models[0] if models else platform.processor() or platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (f"{cores()} cores, {model}{gpu}; torch {torch.__version__}, threads {torch.get_num_threads()}; "
            f"Python {platform.python_version()}; {date.today()}")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def command_line() -> tuple[list[str], list[str]]:
    """The script's own arguments, and those after ``--``, which go to recipes/train_ser.py."""
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    return given[:cut], given[cut + 1:]


def peak() -> float:
    """Peak resident memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILOBYTE / 1e6


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """The function's result. This process only imports, so that its own memory is less than any child's.

    That matters: Linux counts the parent's peak as the child's until the child has its own program.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()
