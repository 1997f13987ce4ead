"""The layout baseline against counts by hand."""

import pytest
import torch

from pano3d.models.layout_baseline import LayoutBaseline
from pano3d.structures import PanopticMap, Reconstruction, SceneSample

WALL, FLOOR, CHAIR = 0, 1, 4


def sample(categories: list[list[int]], depths: list[list[float]]) -> SceneSample:
    """Views of 1 x 2 pixels."""
    result = SceneSample(metainfo=dict(scene_id='a', label_space='scannet20'))
    category = torch.tensor(categories)[:, None]
    result.gt_panoptic = PanopticMap(category, torch.where(category == CHAIR, 7, 0))
    views = len(categories)
    result.gt_reconstruction = Reconstruction.from_depth(
        torch.tensor(depths)[:, None], torch.eye(3).expand(views, 3, 3), torch.eye(4).expand(views, 4, 4)
    )
    return result


def test_most_frequent_class_and_median_depth_of_each_pixel():
    model = LayoutBaseline(label_space='scannet20', image_size=(1, 2))
    training = [
        sample([[WALL, CHAIR], [WALL, -1]], [[1.0, 0.0], [2.0, 4.0]]),
        sample([[FLOOR, CHAIR], [WALL, -1]], [[9.0, 6.0], [3.0, 5.0]]),
        sample([[FLOOR, -1]], [[4.0, 0.0]]),
    ]
    model.fit(training)
    [result] = model(None, [training[0]], mode='predict')
    assert result.pred_panoptic.category.tolist() == [[[WALL, CHAIR]]] * 2  # void does not vote
    assert result.pred_panoptic.instance.tolist() == [[[0, CHAIR + 1]]] * 2
    assert result.pred_reconstruction.depth.tolist() == [[[3.0, 5.0]]] * 2  # pixels without depth are left out
    assert result.pred_semantic.argmax(1).tolist() == [[[WALL, CHAIR]]] * 2


def test_it_cannot_be_fitted_on_nothing_nor_trained():
    model = LayoutBaseline(label_space='scannet20', image_size=(1, 2))
    with pytest.raises(ValueError, match='at least one'):
        model.fit([])
    with pytest.raises(ValueError, match='nothing to train'):
        model(None, [], mode='loss')
