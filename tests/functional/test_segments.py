"""Numbering of segments, against a dictionary that is filled pixel by pixel."""

import torch

from pano3d.functional.segments import segments_of


def test_segments_equal_the_pairs_met_pixel_by_pixel():
    generator = torch.Generator().manual_seed(0)
    category = torch.randint(-1, 4, (3, 5, 6), generator=generator)
    instance = torch.where(category >= 2, torch.randint(1, 4, (3, 5, 6), generator=generator), 0)

    labels, index = segments_of(category, instance)

    pairs = {(c, i) for c, i in zip(category.flatten().tolist(), instance.flatten().tolist(), strict=True) if c >= 0}
    assert len(labels) == len(pairs)
    for segment, label in enumerate(labels.tolist()):
        inside = index == segment
        assert category[inside].unique().tolist() == [label]
        assert len(instance[inside].unique()) == 1
    assert torch.equal(index == -1, category == -1)


def test_an_instance_number_used_by_two_classes_is_two_segments():
    labels, index = segments_of(torch.tensor([[[2, 3, -1]]]), torch.tensor([[[1, 1, 0]]]))
    assert labels.tolist() == [2, 3]
    assert index.tolist() == [[[0, 1, -1]]]


def test_a_scene_of_void_has_no_segment():
    labels, index = segments_of(torch.full((2, 3, 3), -1), torch.zeros(2, 3, 3, dtype=torch.long))
    assert len(labels) == 0
    assert (index == -1).all()
