"""Checkpoints that a kill at any moment leaves whole."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from speechbrain.utils.checkpoints import METAFNAME, Checkpointer
from speechbrain.utils.distributed import ddp_barrier

from ser_plugins.errors import DataError, out_of_memory


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's checkpointer, safe against a kill at any moment.

    The metafile makes a folder a checkpoint. SpeechBrain writes it first, so that a killed process leaves a checkpoint
    without its parameters; here it gets its name last.
    """

    def save_and_keep_only(self, *args: Any, importance_keys: Sequence[Callable] = (), **kwargs: Any) -> None:
        """As the base class, whose default list grows with every call (SpeechBrain 1.1.2), and each call with it."""
        super().save_and_keep_only(*args, importance_keys=list(importance_keys), **kwargs)

    def load_checkpoint(self, checkpoint: Any) -> None:
        """As the base class; a file that is corrupt is the user's to remove. Where memory ran out, none need be."""
        try:
            super().load_checkpoint(checkpoint)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            if out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
            raise DataError(f"checkpoint {checkpoint.path} cannot be loaded ({reason}); remove that folder to go on "
                            "from an older one") from error

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """As the base class."""
        try:
            checkpoint = super().save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError) as error:  # PyTorch's writer raises RuntimeError
            raise DataError(f"no checkpoint can be written to {self.checkpoints_dir}: {error}; "
                            "is the folder writable and the disk not full?") from error
        if checkpoint is not None:
            os.replace(checkpoint.path / f"{METAFNAME}.partial", checkpoint.path / METAFNAME)
        ddp_barrier()  # the processes look for checkpoints next, and must see the same
        return checkpoint

    def _save_checkpoint_metafile(self, fpath: Path, *args: Any, **kwargs: Any) -> Any:
        return super()._save_checkpoint_metafile(fpath.with_name(f"{METAFNAME}.partial"), *args, **kwargs)
