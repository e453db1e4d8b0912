"""Checkpoints: whole or not there, and no dearer with every epoch."""


import processes
import pytest
import torch

from ser_plugins.checkpoints import AtomicCheckpointer
from ser_plugins.errors import DataError


class Cut(Exception):
    """Stands for a process that ends here."""


def checkpointer(folder, value, cut=False):
    """A checkpointer of two parts; ``cut`` ends the saving of the second half-way."""
    parts = {name: torch.nn.Linear(1, 1) for name in ("first", "second")}
    for part in parts.values():
        torch.nn.init.constant_(part.weight, value)

    def save(part, path):
        if cut:
            path.write_bytes(b"half")
            raise Cut
        torch.save(part.state_dict(), path)

    def restore(part, path, _):
        part.load_state_dict(torch.load(path))

    return AtomicCheckpointer(folder, parts, custom_save_hooks={"second": save},
                              custom_load_hooks={"second": restore}), parts


def recovered(folder):
    fresh, parts = checkpointer(folder, 0.0)
    found = fresh.recover_if_possible()
    return found, [part.weight.item() for part in parts.values()]


def test_a_checkpoint_is_recovered_with_its_meta_data(tmp_path):
    saver, _ = checkpointer(tmp_path, 1.0)
    saved = saver.save_checkpoint(meta={"loss": 0.5})
    found, values = recovered(tmp_path)
    assert values == [1, 1]
    assert found.path == saved.path
    assert found.meta["loss"] == 0.5


def test_a_save_that_is_cut_off_is_no_checkpoint_and_the_one_before_is_recovered(tmp_path):
    checkpointer(tmp_path, 1.0)[0].save_checkpoint(meta={"loss": 0.5})
    with pytest.raises(Cut):
        checkpointer(tmp_path, 2.0, cut=True)[0].save_checkpoint(meta={"loss": 0.1})
    assert len(list(tmp_path.iterdir())) == 2
    fresh, _ = checkpointer(tmp_path, 0.0)
    assert len(fresh.list_checkpoints()) == 1
    assert fresh.find_checkpoint(min_key="loss").meta["loss"] == 0.5
    assert recovered(tmp_path)[1] == [1, 1]


def test_a_first_save_that_is_cut_off_leaves_nothing_to_recover(tmp_path):
    with pytest.raises(Cut):
        checkpointer(tmp_path, 2.0, cut=True)[0].save_checkpoint()
    assert recovered(tmp_path) == (None, [0, 0])


def test_a_kill_just_before_the_checkpoint_gets_its_name(tmp_path, monkeypatch):
    checkpointer(tmp_path, 1.0)[0].save_checkpoint()

    def killed(*_):
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr("ser_plugins.checkpoints.os.replace", killed)
        with pytest.raises(Cut):
            checkpointer(tmp_path, 2.0)[0].save_checkpoint()
    assert recovered(tmp_path)[1] == [1, 1]
    checkpointer(tmp_path, 3.0)[0].save_checkpoint()  # and training goes on
    assert recovered(tmp_path)[1] == [3, 3]


def test_the_best_and_the_last_are_kept(tmp_path):
    for value, loss in ((1.0, 0.3), (2.0, 0.1), (3.0, 0.2), (4.0, 0.4)):
        checkpointer(tmp_path, value)[0].save_and_keep_only(meta={"loss": loss}, min_keys=["loss"])
    kept = checkpointer(tmp_path, 0.0)[0].list_checkpoints()
    assert sorted(one.meta["loss"] for one in kept) == [0.1, 0.4]
    assert recovered(tmp_path)[1] == [4, 4]


def test_a_corrupt_checkpoint_is_named(tmp_path):
    saver, _ = checkpointer(tmp_path, 1.0)
    saved = saver.save_checkpoint()
    for path in saved.path.glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"checkpoint \S+CKPT\S+ cannot be loaded \(.*; remove that folder"):
        recovered(tmp_path)


def test_a_checkpoint_is_not_called_corrupt_where_memory_ran_out(tmp_path):
    checkpointer(tmp_path, 1.0)[0].save_checkpoint()

    def restore(*_):
        torch.empty(2 ** 59)  # more than any machine can address

    fresh = AtomicCheckpointer(tmp_path, {"first": torch.nn.Linear(1, 1)}, custom_load_hooks={"first": restore},
                               allow_partial_load=True)
    with pytest.raises(RuntimeError, match="allocate"):
        fresh.recover_if_possible()


def test_an_epochs_checkpoint_costs_what_the_first_one_did(tmp_path, monkeypatch):
    """SpeechBrain looks through all checkpoints once more with every call."""
    checkpointer = AtomicCheckpointer(tmp_path, {"part": torch.nn.Linear(1, 1)})
    looks, find = [], checkpointer.find_checkpoints
    monkeypatch.setattr(checkpointer, "find_checkpoints", lambda **options: looks.append(1) or find(**options))
    for epoch in range(4):
        checkpointer.save_and_keep_only(meta={"loss": 1 / (epoch + 1)}, min_keys=["loss"])
        looks.append(0)
    counts = "".join(map(str, looks)).split("0")[:4]
    assert len(set(counts)) == 1
    assert len(checkpointer.list_checkpoints()) == 1  # the last is the best


SAVING = """
import os, sys, time, torch
from ser_plugins import checkpoints

torch.distributed.init_process_group("gloo")
replace = os.replace
checkpoints.os.replace = lambda *paths: (time.sleep(0.3), replace(*paths))  # the other process is ahead
saver = checkpoints.AtomicCheckpointer(sys.argv[1], {"part": torch.nn.Linear(1, 1)})
for loss in (0.3, 0.2, 0.1):
    saver.save_and_keep_only(meta={"loss": loss}, min_keys=["loss"])
    assert [one.meta["loss"] for one in saver.find_checkpoints()] == [loss]
torch.distributed.destroy_process_group()
"""


def test_processes_agree_on_what_to_delete(tmp_path):
    """One that does not yet see the new checkpoint would keep the old one, and wait for the other for ever."""
    (tmp_path / "saving.py").write_text(SAVING)
    done = processes.run(tmp_path / "saving.py", [tmp_path / "save"], processes=2)
    assert done.codes == (0,), done.stderr
