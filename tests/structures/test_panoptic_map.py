"""Oracle: the tensors that went in."""

import pytest
import torch

from pano3d.structures import PanopticMap


def test_indexing_and_moving():
    category = torch.tensor([[[0, -1]], [[2, 2]]])
    instance = torch.tensor([[[0, 0]], [[5, 6]]])
    panoptic = PanopticMap(category, instance)
    assert panoptic.shape == (2, 1, 2)
    assert torch.equal(panoptic[1].category, category[1])
    assert torch.equal(panoptic[1:].instance, instance[1:])
    mask = category == 2
    assert panoptic[mask].instance.tolist() == [5, 6]
    moved = panoptic.to('meta', non_blocking=True)
    assert (moved.category.device.type, moved.instance.device.type) == ('meta', 'meta')


def test_one_shape():
    with pytest.raises(ValueError, match=r'must have one shape, got \(2, 3\) and \(3, 2\)'):
        PanopticMap(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.int64))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bool])
@pytest.mark.parametrize('name', ['category', 'instance'])
def test_integers_only(name, dtype):
    maps = {'category': torch.zeros(2, dtype=torch.int32), 'instance': torch.zeros(2, dtype=torch.int64)}
    PanopticMap(**maps)
    with pytest.raises(ValueError, match=f'`{name}` must be of an integer type, got {dtype}'):
        PanopticMap(**{**maps, name: torch.zeros(2, dtype=dtype)})
