"""The norm over valid frames is PyTorch's batch norm of those frames put end to end, in one process or several."""


import processes
import pytest
import torch
from torch import nn

from ser_plugins.frame_norm import FrameNorm


def norms(reference):
    """A norm of frames and PyTorch's batch norm with the same random weights, in double precision."""
    ours = FrameNorm(4).double()
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs = reference(4).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("shape", "reference"), [((3, 4, 5, 7), nn.BatchNorm2d), ((6, 4), nn.BatchNorm1d)])
def test_without_padding_frames_are_normalised_as_by_pytorch(shape, reference, training):
    torch.manual_seed(0)
    x, weights = torch.randn(2, *shape, dtype=torch.double)
    ours, theirs = (norm.train(training) for norm in norms(reference))
    results = []
    for norm, arguments in ((ours, (torch.ones(shape[0], *[1] * (len(shape) - 2), shape[-1] if x.dim() > 2 else 1),)),
                            (theirs, ())):
        copy = x.clone().requires_grad_()
        for _ in range(2):
            value = norm(copy, *arguments)
        (value * weights).sum().backward()
        results.append({"value": value, "gradient": copy.grad, "weight": norm.weight.grad, "bias": norm.bias.grad,
                        **norm.state_dict()})
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)


def test_padding_changes_neither_statistics_nor_gradients():
    """The valid frames, each utterance by itself and put end to end, are PyTorch's batch."""
    torch.manual_seed(1)
    lengths, time = (7, 3, 5), 9
    mask = torch.arange(time) < torch.tensor(lengths).unsqueeze(1)
    x, weights = torch.randn(2, 3, 4, 2, time, dtype=torch.double)
    ours, theirs = (norm.train() for norm in norms(nn.BatchNorm1d))
    padded = x.clone().requires_grad_()
    (ours(padded, mask[:, None, None, :]) * weights * mask[:, None, None, :]).sum().backward()

    def joined(tensor):
        return torch.cat([item[:, :, :length] for item, length in zip(tensor, lengths, strict=True)], dim=2)

    valid = joined(x).unsqueeze(0).flatten(2).requires_grad_()
    (theirs(valid) * joined(weights).unsqueeze(0).flatten(2)).sum().backward()
    torch.testing.assert_close(joined(padded.grad).unsqueeze(0).flatten(2), valid.grad, rtol=0, atol=1e-12)
    assert padded.grad.masked_select(~mask[:, None, None, :].expand_as(padded)).eq(0).all()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=0, atol=1e-12)


SHARES = """
import sys, torch
from ser_plugins.frame_norm import FrameNorm

torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
x, weights, mask = torch.load(sys.argv[1])
norm = FrameNorm(4).double().train()
share = x[rank::3].clone().requires_grad_()
(norm(share, mask[rank::3, None]) * weights[rank::3]).sum().backward()
torch.save([share.grad, norm.weight.grad, norm.bias.grad, norm.state_dict()], f"{sys.argv[1]}.{rank}")
torch.distributed.destroy_process_group()
"""


def test_three_processes_normalise_as_one_does(tmp_path):
    """Five utterances; the last of the processes has one without valid frames, which counts nothing."""
    torch.manual_seed(2)
    x, weights = torch.randn(2, 6, 4, 7, dtype=torch.double)
    mask = torch.arange(7) < torch.tensor([7, 3, 5, 2, 6, 0]).unsqueeze(1)
    torch.save([x, weights * mask.unsqueeze(1), mask], tmp_path / "batch")
    (tmp_path / "shares.py").write_text(SHARES)
    done = processes.run(tmp_path / "shares.py", [tmp_path / "batch"], processes=3)
    assert done.codes == (0,), done.stderr
    shares = [torch.load(tmp_path / f"batch.{rank}") for rank in range(3)]
    alone = FrameNorm(4).double().train()
    whole = x[:5].clone().requires_grad_()
    (alone(whole, mask[:5, None]) * weights[:5] * mask[:5, None]).sum().backward()
    for rank, (gradient, *_) in enumerate(shares):
        torch.testing.assert_close(gradient[:2 - rank // 2], whole.grad[rank::3], rtol=0, atol=1e-12)
    for place, gradient in ((1, alone.weight.grad), (2, alone.bias.grad)):
        torch.testing.assert_close(sum(share[place] for share in shares), gradient, rtol=0, atol=1e-12)
    torch.testing.assert_close(shares[2][3], alone.state_dict(), rtol=0, atol=1e-12)
