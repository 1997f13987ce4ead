"""Numbering of segments, against a dictionary that is filled pixel by pixel."""

import torch

from pano3d.functional.segments import segments_of


def test_segments_equal_the_pairs_met_pixel_by_pixel():
    generator = torch.Generator().manual_seed(0)
    category = torch.randint(-1, 4, (2, 3, 5, 6), generator=generator)
    instance = torch.where(category >= 2, torch.randint(1, 4, category.shape, generator=generator), 0)

    found = segments_of(category, instance)

    expected = []
    for b in range(2):
        pairs = zip(category[b].flatten().tolist(), instance[b].flatten().tolist(), strict=True)
        expected += sorted((b, c, i) for c, i in set(pairs) if c >= 0)
    assert [entry[:2] for entry in expected] == list(zip(found.scene.tolist(), found.category.tolist(), strict=True))
    for number, (b, c, i) in enumerate(expected):
        inside = torch.zeros_like(category, dtype=torch.bool)
        inside[b] = (category[b] == c) & (instance[b] == i)
        assert torch.equal(found.index == number, inside)
    assert torch.equal(found.index == -1, category == -1)


def test_an_instance_number_used_by_two_classes_is_two_segments():
    found = segments_of(torch.tensor([[[[2, 3, -1]]]]), torch.tensor([[[[1, 1, 0]]]]))
    assert found.category.tolist() == [2, 3]
    assert found.index.tolist() == [[[[0, 1, -1]]]]


def test_scenes_of_void_have_no_segment():
    found = segments_of(torch.full((2, 2, 3, 3), -1), torch.zeros(2, 2, 3, 3, dtype=torch.long))
    assert len(found.category) == len(found.scene) == 0
    assert (found.index == -1).all()
