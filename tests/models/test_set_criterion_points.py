"""Where the set loss looks, what it keeps in memory, and how it counts over several processes."""

import pytest
import torch
from torch import multiprocessing

from pano3d.models.criteria import set_criterion
from pano3d.models.criteria.set_criterion import SetCriterion
from pano3d.models.queries import QueryPrediction
from pano3d.structures import PanopticMap

VIEWS, HEIGHT, WIDTH = 4, 6, 8


def scene(seed: int, queries: int = 5) -> tuple[QueryPrediction, PanopticMap]:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randn(1, queries, 4, generator=generator)
    masks = torch.randn(1, queries, VIEWS, HEIGHT, WIDTH, generator=generator)
    category = torch.randint(-1, 3, (VIEWS, 2 * HEIGHT, 2 * WIDTH), generator=generator)
    category[1], category[3, 3:] = -1, -1  # one view without labels, one with few
    return QueryPrediction(classes, masks.requires_grad_()), PanopticMap(category, torch.zeros_like(category))


@pytest.mark.parametrize('shared', [False, True])
@pytest.mark.parametrize('per_view', [False, True])
def test_all_points_lie_on_labels_and_equally_many_in_each_view_if_wanted(monkeypatch, per_view, shared):
    seen = []
    prediction, target = scene(0)
    for name in ('sample_all', 'sample_own'):
        original = getattr(set_criterion, name)

        def record(*arguments, original=original):
            seen.append(next(argument for argument in arguments if isinstance(argument, set_criterion.Points)))
            return original(*arguments)

        monkeypatch.setattr(set_criterion, name, record)
    SetCriterion(num_points=300, points_per_view=per_view, shared_points=shared)([prediction], [target])
    matching, candidates, loss = seen
    assert matching.pixel.shape == (1, 300) and candidates.pixel.shape == (3, 900) and loss.pixel.shape == (3, 300)
    assert (len(loss.pixel.unique(dim=0)) == 1) == shared
    for points in seen:
        assert (target.category.flatten()[points.pixel] >= 0).all()
        for pixels in points.pixel:
            per_view_count = torch.bincount(pixels // (4 * HEIGHT * WIDTH), minlength=VIEWS)
            assert per_view_count[1] == 0
            assert (per_view_count[[0, 2, 3]].max() - per_view_count[[0, 2, 3]].min() <= 2) == per_view


def test_the_loss_keeps_points_and_no_copies_of_masks():
    """What is saved for the backward pass does not grow with the size of the masks."""
    kept = {}
    for size in (16, 64):
        masks = torch.randn(1, 30, VIEWS, size, size, requires_grad=True)
        prediction = QueryPrediction(torch.randn(1, 30, 4), masks)
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, saved=saved: saved.append(tensor.nbytes) or tensor, lambda tensor: tensor
        ):
            SetCriterion(num_points=50)([prediction] * 2, [scene(0)[1]])
        kept[size] = sum(saved)
    assert kept[16] == kept[64] < masks.nbytes / 10


def test_half_precision_is_read_as_the_same_numbers_in_single():
    """Also under autocast: only what comes in is rounded, nothing of the loss."""
    prediction, target = scene(0)
    half = QueryPrediction(prediction.classes.bfloat16(), prediction.masks.detach().bfloat16().requires_grad_())
    single = QueryPrediction(half.classes.float(), half.masks.detach().float().requires_grad_())
    losses = []
    for given in (half, single):
        torch.manual_seed(0)
        with torch.autocast('cpu', torch.bfloat16, enabled=given is half):
            losses.append(SetCriterion(num_points=50)([given], [target]))
        sum(losses[-1].values()).backward()
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(half.masks.grad.float(), single.masks.grad, rtol=0.05, atol=1e-3)


def loss_of_rank(rank: int) -> dict[str, torch.Tensor]:
    """Rank 0 has three segments, rank 1 none at all, both the same predictions."""
    prediction, target = scene(0)
    if rank == 1:
        target = PanopticMap(torch.full_like(target.category, -1), target.instance)
    torch.manual_seed(0)
    return SetCriterion(num_points=50)([prediction], [target])


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'file://{folder}/meeting', rank=rank, world_size=2)
    torch.save({name: value.detach() for name, value in loss_of_rank(rank).items()}, f'{folder}/{rank}.pt')
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_masks_are_counted_over_all_processes(tmp_path):
    multiprocessing.start_processes(run_rank, (str(tmp_path),), nprocs=2, start_method='fork')
    found = [torch.load(tmp_path / f'{rank}.pt', weights_only=True) for rank in range(2)]
    alone = loss_of_rank(0)
    for name in ('dice', 'mask'):
        torch.testing.assert_close(found[0][name], alone[name].detach() * 3 / 1.5)
        assert found[1][name] == 0
    torch.testing.assert_close(found[0]['class'], alone['class'].detach())
