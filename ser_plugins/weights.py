"""Weights of strangers: safetensors only, and no network larger than its file.

A settings file can ask for a network of any size, and its constructor takes the memory before a weight is compared.
So a network is built within a budget: PyTorch is asked for no more values and parts than the weights file can fill.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from ser_plugins.errors import DataError, out_of_memory

PARTS = 10  # modules and parameters for each tensor of the file, at most
VALUES = 4  # values asked for in the construction for each one of the file, at most: some starting weights need drafts
SPARE = 10_000  # values beyond these, as buffers that are not kept
CREATORS = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn,
                      torch.arange, torch.hamming_window, torch.hann_window})


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a safetensors file by name, from its header.

    Raises
    ------
    DataError
        The file is missing, or is no safetensors file, as a pickle under that name.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        if out_of_memory(error):
            raise
        raise DataError(f"{path} is corrupt: {error}") from error


@contextlib.contextmanager
def bounded(path: Path) -> Iterator[None]:
    """Ends the construction of a network that is larger than its weights file, before it takes the memory.

    Arguments
    ---------
    path : Path
        The weights, of which the header is read.

    Raises
    ------
    DataError
        The network wants more values or parts than the file can fill; or the file is corrupt.
    """
    held = shapes(path)
    parts = PARTS * (len(held) + PARTS)
    thread, count = threading.get_ident(), 0  # the hooks are the process's: others may build at the same time

    def one_more(*_: Any) -> None:
        nonlocal count
        if threading.get_ident() != thread:
            return
        count += 1
        if count > parts:
            raise DataError(f"{path} holds {len(held)} tensors, and the network that is described beside it has more "
                            f"than {parts} parts")

    hooks = [register_module_parameter_registration_hook(one_more), register_module_module_registration_hook(one_more)]
    try:
        with _Budget(path, sum(map(math.prod, held.values()))):
            yield
    finally:
        for hook in hooks:
            hook.remove()


class _Budget(TorchFunctionMode):
    """Counts the values that new tensors have, and ends before they exceed what the file can fill."""

    def __init__(self, path: Path, values: int) -> None:
        super().__init__()
        self.path, self.values, self.asked = path, values, 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in CREATORS:
            size = kwargs.get("size", args[0] if args and isinstance(args[0], tuple | list) else args)
            self.asked += math.prod(number for number in size if isinstance(number, int))
            if self.asked > VALUES * self.values + SPARE:
                raise DataError(f"{self.path} holds {self.values} values, and the network that is described beside it "
                                f"asks for {self.asked} or more")
        return function(*args, **kwargs)


def load_weights(network: nn.Module, path: Path, whose: str) -> None:
    """Fills a network with weights that fit it.

    Arguments
    ---------
    network : torch.nn.Module
        The network.
    path : Path
        A safetensors file.
    whose : str
        What the weights belong to, for the error.

    Raises
    ------
    DataError
        The file is corrupt; a tensor is missing, too many, of another shape or kind, or not finite.
    """
    own, held = network.state_dict(), shapes(path)
    faults = [f"{name} is missing" for name in own if name not in held]
    faults += [f"{name} is not part of it" for name in held if name not in own]
    faults += [f"{name} has shape {held[name]}, expected {tuple(own[name].shape)}"
               for name in own if name in held and held[name] != tuple(own[name].shape)]
    if not faults:  # else the file may be of any size
        weights = _read(path)
        faults = [f"{name} is {tensor.dtype}" for name, tensor in weights.items()
                  if tensor.is_floating_point() != own[name].is_floating_point()]
        faults += [f"{name} is not finite" for name, tensor in weights.items() if not tensor.isfinite().all()]
    if faults:
        more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
        raise DataError(f"{path} does not fit {whose}: {'; '.join(faults[:5])}{more}")
    network.load_state_dict(weights)


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        if out_of_memory(error):
            raise
        raise DataError(f"{path} is corrupt: {error}") from error
