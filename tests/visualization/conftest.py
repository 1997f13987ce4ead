"""A scene that is known by construction: a floor, a wall, and two chairs painted on the wall."""

import pytest
import torch

from pano3d.functional.geometry import invert_rigid, transform_points, unproject
from pano3d.structures import LabelSpace, PanopticMap, Reconstruction, SceneSample

HEIGHT, WIDTH = 48, 64
WALL_Z, FLOOR_Y = 4.0, 1.2
CHAIRS = {4: (-1.4, -0.4), 9: (0.3, 1.5)}  # instance id: extent in x, metres
CHAIR_Y = (-0.5, 0.6)


@pytest.fixture
def label_space() -> LabelSpace:
    return LabelSpace(
        name='rooms', names=('wall', 'floor', 'chair'), source_ids=(1, 2, 3), source_key='id', stuff={'wall', 'floor'}
    )


@pytest.fixture
def scene() -> SceneSample:
    """Three views 0.4 m apart along x; prediction = truth at half the scale with other instance ids."""
    camera_to_world = torch.eye(4).repeat(3, 1, 1)
    camera_to_world[:, 0, 3] = torch.tensor([-0.4, 0.0, 0.4])
    intrinsics = torch.tensor([[45.0, 0, WIDTH / 2], [0, 45.0, HEIGHT / 2], [0, 0, 1]]).repeat(3, 1, 1)
    rays = unproject(torch.ones(3, HEIGHT, WIDTH), intrinsics)
    depth = torch.minimum(torch.full_like(rays[..., 1], WALL_Z), FLOOR_Y / rays[..., 1].clamp(min=1e-6))
    depth[:, :2, :2] = 0  # no measurement there
    truth = Reconstruction.from_depth(depth, intrinsics, camera_to_world)
    panoptic = label(truth)

    sample = SceneSample(
        metainfo={'scene_id': 'room', 'frame_ids': ['000000', '000020', '000040'], 'label_space': 'rooms'}
    )
    sample.images = torch.rand(3, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    sample.gt_reconstruction = truth
    sample.gt_panoptic = panoptic
    halved = camera_to_world.clone()
    halved[:, :3, 3] /= 2
    predicted = Reconstruction.from_depth(depth / 2, intrinsics, halved)
    sample.pred_reconstruction = predicted
    renamed = torch.where(panoptic.instance == 4, 1, torch.where(panoptic.instance == 9, 2, 0))
    sample.pred_panoptic = PanopticMap(panoptic.category, renamed)
    assert torch.allclose(
        transform_points(invert_rigid(halved)[:, None], predicted.points)[..., 2], depth / 2, atol=1e-5
    )
    return sample


def label(truth: Reconstruction) -> PanopticMap:
    x, y, z = truth.points.unbind(-1)
    category = torch.where(z > WALL_Z - 1e-4, 0, 1)
    instance = torch.zeros_like(category)
    for identifier, (left, right) in CHAIRS.items():
        inside = (category == 0) & (x > left) & (x < right) & (y > CHAIR_Y[0]) & (y < CHAIR_Y[1])
        instance[inside] = identifier
    category[instance > 0] = 2
    category[~truth.valid] = -1
    return PanopticMap(category, instance)
