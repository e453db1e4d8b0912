"""The contract of heads."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ser_plugins import registry
from ser_plugins.contracts import FILLED_IN, Frames, Head, HeadInputs, Needs
from ser_plugins.testing.rules import LEAK, UNSTEADY, Rule, require, require_close, require_constructor, take


class HeadCase:
    """A head's class, its options, and four utterances to try it on: the longest has 23 frames, the shortest 1."""

    LENGTHS = ((23, 9, 17, 1), (12, 5, 9, 1))  # frames of features, at 100 a second, and of encoder layers, at 50
    FEATURE_DIM = 7
    LAYER_DIMS = (16,) * 24  # as many layers as any recogniser's, all of one size, so that layers may be added up
    VOCABULARY = 6
    CLASSES = 3

    def __init__(self, plugin: type[Head], options: Mapping[str, Any] | None = None) -> None:
        self.plugin = plugin
        self.options = dict(options or {})

    @property
    def needs(self) -> Needs:
        """What it needs under these options."""
        defaults = {name: argument.default for name, argument in registry.arguments(self.plugin).items()}
        return self.plugin.needs.resolve({**defaults, **self.options}, len(self.LAYER_DIMS))

    def build(self, seed: int = 0, classes: int = CLASSES) -> Head:
        """A new head in evaluation mode; its constructor gets sizes of only what it needs."""
        offered: dict[str, Any] = {"num_classes": classes}
        if self.needs.features:
            offered["feature_dim"] = self.FEATURE_DIM
        if self.needs.encoder:
            offered["layer_dims"] = self.LAYER_DIMS
        if self.needs.log_probs:
            offered["vocabulary"] = self.VOCABULARY
        named = registry.arguments(self.plugin)
        torch.manual_seed(seed)
        head = self.plugin(**{key: value for key, value in offered.items() if key in named}, **self.options)
        return head.eval()

    def inputs(self, items: Sequence[int] = (0, 1, 2, 3), padding: int = 0) -> HeadInputs:
        """What the head needs of some of the utterances, padded by so many frames more."""
        generator = torch.Generator().manual_seed(0)

        def frames(lengths: Sequence[int], dim: int, rate: float) -> Frames:
            sequences = [torch.randn(length, dim, generator=generator) for length in lengths]
            return take(Frames.from_list(sequences, rate), items, padding)

        features = frames(self.LENGTHS[0], self.FEATURE_DIM, 100.0)
        layers = {layer: frames(self.LENGTHS[1], dim, 50.0) for layer, dim in enumerate(self.LAYER_DIMS, start=1)}
        log_probs = frames(self.LENGTHS[1], self.VOCABULARY, 50.0)
        needs = self.needs
        assert isinstance(needs.sequences, tuple)
        assert isinstance(needs.means, tuple)
        return HeadInputs(
            features if needs.features else None,
            {layer: layers[layer] for layer in needs.sequences},
            {layer: layers[layer].mean() for layer in needs.means},
            Frames(log_probs.data.log_softmax(dim=2), log_probs.lengths, 50.0).masked() if needs.log_probs else None,
        )


def _tensors(inputs: HeadInputs) -> list[Tensor]:
    frames = [*(one for one in (inputs.features, inputs.log_probs) if one is not None), *inputs.sequences.values()]
    return [tensor for item in frames for tensor in (item.data, item.lengths)] + list(inputs.means.values())


def head_constructor(case: HeadCase) -> None:
    """The constructor names every argument, and every option has a default."""
    require_constructor(case.plugin, offered=FILLED_IN)


def head_needs(case: HeadCase) -> None:
    """`needs` is a class attribute of type Needs that names features, existing layers or log_probs."""
    needs = getattr(case.plugin, "needs", None)
    require(isinstance(needs, Needs), f"`needs` is {needs!r}")
    require(case.needs.features or case.needs.encoder, f"{needs} asks for nothing")


def head_logits(case: HeadCase) -> None:
    """Logits are finite floats of shape [batch, classes]."""
    for classes in (case.CLASSES, case.CLASSES + 2):
        logits = case.build(classes=classes)(case.inputs())
        require(isinstance(logits, Tensor), f"forward returns a {type(logits).__name__}, not a Tensor")
        require(logits.shape == (4, classes),
                 f"the shape is {list(logits.shape)} for 4 utterances and {classes} classes")
        require(logits.is_floating_point(), f"they are {logits.dtype}")
        require(bool(torch.isfinite(logits).all()),
                 f"{int((~torch.isfinite(logits)).sum())} of {logits.numel()} are not finite")


def head_deterministic(case: HeadCase) -> None:
    """In evaluation mode the same inputs give the same logits."""
    head, inputs = case.build(), case.inputs()
    require_close(head(inputs), head(inputs), "logits of two calls", UNSTEADY)


def head_batch_invariant(case: HeadCase) -> None:
    """An utterance has the same logits alone, in a batch, and beside a longer one."""
    head = case.build()
    batch = head(case.inputs())
    for item, length in enumerate(case.LENGTHS[0]):
        alone = head(case.inputs([item]))
        require_close(alone, batch[item:item + 1], f"logits of an utterance of {length} frames, alone and in a batch,",
                      LEAK)
    shuffled = [2, 0, 3, 1]
    require_close(head(case.inputs(shuffled)), batch[shuffled], "logits in another order of the batch", LEAK)


def head_ignores_padding(case: HeadCase) -> None:
    """Longer padding changes nothing."""
    head = case.build()
    padded, plain = head(case.inputs(padding=10)), head(case.inputs())
    require_close(padded, plain, "logits with and without 10 frames of zeros", LEAK)


def head_keeps_inputs(case: HeadCase) -> None:
    """The inputs are not modified."""
    head, inputs = case.build(), case.inputs()
    head.train()(inputs)
    for found, expected in zip(_tensors(inputs), _tensors(case.inputs()), strict=True):
        require(torch.equal(found, expected), f"a tensor of shape {list(expected.shape)} has changed after forward")


def head_gradients(case: HeadCase) -> None:
    """Finite gradients reach every trainable parameter, and not all of them are zero."""
    head = case.build().train()
    trainable = {name: tensor for name, tensor in head.named_parameters() if tensor.requires_grad}
    require(bool(trainable), "no parameter is trainable")
    nn.functional.cross_entropy(head(case.inputs()), torch.tensor([0, 1, 2, 0])).backward()
    gradients = {name: tensor.grad for name, tensor in trainable.items() if tensor.grad is not None}
    unreached = [name for name in trainable if name not in gradients]
    require(not unreached, f"no gradient reaches {', '.join(unreached)}")
    wrong = [name for name, gradient in gradients.items() if not bool(torch.isfinite(gradient).all())]
    require(not wrong, f"the gradient of {', '.join(wrong)} is not finite")
    require(any(bool(gradient.any()) for gradient in gradients.values()), "every gradient is zero: nothing is learned")


def head_checkpoint(case: HeadCase) -> None:
    """A head that loads another's state_dict gives the other's logits."""
    trained, fresh, inputs = case.build(seed=0), case.build(seed=1), case.inputs()
    fresh.load_state_dict(trained.state_dict())
    require_close(fresh(inputs), trained(inputs), "logits of the two")


def head_copies(case: HeadCase) -> None:
    """A pickled head and a deep copy give the same logits."""
    head, inputs = case.build(), case.inputs()
    require_close(pickle.loads(pickle.dumps(head))(inputs), head(inputs), "logits before and after pickling")
    require_close(copy.deepcopy(head)(inputs), head(inputs), "logits of a head and its copy")


HEAD_RULES: tuple[Rule[HeadCase], ...] = (
    head_constructor, head_needs, head_logits, head_deterministic, head_batch_invariant, head_ignores_padding,
    head_keeps_inputs, head_gradients, head_checkpoint, head_copies,
)
