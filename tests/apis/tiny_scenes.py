"""Scenes small enough for every protocol in a second: every class of the label space is in every view."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.model import BaseModel
from torch import Tensor, nn

from pano3d.registry import DATASETS, MODELS
from pano3d.structures import LabelSpace, PanopticMap, Reconstruction, SceneSample

VIEWS, ROWS, COLUMNS, BLOCK = 3, 4, 5, (10, 12)
SIZE = (VIEWS, ROWS * BLOCK[0], COLUMNS * BLOCK[1])

CONFIG = """
_base_ = 'pano3d::_base_/default_runtime.py'
model = dict(type='BlurredTruth', data_preprocessor=dict(type='SceneDataPreprocessor'))
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='TinyScenes', data_root={root!r}, ann_file='val.json', label_space='scannet20'),
)
test_evaluator = [dict(type='ScenePanopticMetric'), dict(type='DepthMetric')]
test_cfg = dict(type='TestLoop')
log_level = 'ERROR'
visualizer = dict(_delete_=True, type='Visualizer')
"""


def ground_truth(number: int, folder: Path, label_space: LabelSpace) -> SceneSample:
    """Blocks of 120 pixels, one per class and view; the mesh is made of exactly the points that the views see."""
    generator = torch.Generator().manual_seed(number)
    blocks = torch.stack([torch.randperm(20, generator=generator) for _ in range(VIEWS)]).view(VIEWS, ROWS, COLUMNS)
    category = blocks.repeat_interleave(BLOCK[0], 1).repeat_interleave(BLOCK[1], 2)
    is_thing = ~label_space.is_stuff[category]
    camera_to_world = torch.eye(4).repeat(VIEWS, 1, 1)
    camera_to_world[1, 0, 3] = camera_to_world[2, 1, 3] = 10.0
    intrinsics = torch.tensor([[30.0, 0, 29.5], [0, 30.0, 19.5], [0, 0, 1]]).repeat(VIEWS, 1, 1)
    depth = 2 + torch.rand(SIZE, generator=generator)
    sample = SceneSample(
        metainfo={
            'scene_id': f'scene{number:04d}_00',
            'frame_ids': ['000000', '000020', '000040'],
            'label_space': label_space.name,
            'mesh_path': str(folder / f'scene{number:04d}_00.npz'),
            'instance_categories': {index + 1: index for index in range(20)},
        }
    )
    sample.gt_panoptic = PanopticMap(category, torch.where(is_thing, category + 1, 0))
    sample.gt_reconstruction = Reconstruction.from_depth(depth, intrinsics, camera_to_world)
    vertices = sample.gt_reconstruction.points.reshape(-1, 3).numpy()
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(sample.mesh_path, vertices=vertices, instance=category.flatten().numpy() + 1)
    return sample


def as_predicted(sample: SceneSample) -> SceneSample:
    """The sample with its ground truth as prediction."""
    result = sample.clone()
    result.pred_panoptic = sample.gt_panoptic
    result.pred_reconstruction = sample.gt_reconstruction
    stuff = LabelSpace.load(sample.label_space).is_stuff.tolist()
    result.pred_segments = [{'category': c, 'instance': 0 if stuff[c] else c + 1, 'score': 0.9} for c in range(20)]
    result.pred_semantic = nn.functional.one_hot(sample.gt_panoptic.category, 20).movedim(-1, 1).float()
    result.images = torch.full((VIEWS, 3, *SIZE[1:]), 0.5)
    return result


@DATASETS.register_module(force=True)
class TinyScenes(BaseDataset):
    """Scenes number 0, 1, ...; those in `broken` cannot be read."""

    def __init__(
        self, *, data_root: str, ann_file: str, label_space: str, num_scenes: int = 3, broken: tuple[int, ...] = ()
    ) -> None:
        self.folder = Path(data_root)
        self.label_space = LabelSpace.load(label_space)
        self.num_scenes = num_scenes
        self.broken = broken
        super().__init__(ann_file=ann_file, serialize_data=False)

    def load_data_list(self) -> list[dict]:
        return [{} for _ in range(self.num_scenes)]

    def __getitem__(self, index: int) -> dict:
        if index in self.broken:
            raise ValueError(f'scene{index:04d}_00/depth: the file is damaged')
        sample = ground_truth(index, self.folder / 'meshes', self.label_space)
        return {'inputs': torch.full((VIEWS, 3, *SIZE[1:]), 128, dtype=torch.uint8), 'data_samples': sample}


@MODELS.register_module(force=True)
class BlurredTruth(BaseModel):
    """Ground truth with errors of its own in every scene; remembers what it was asked, and can be interrupted."""

    asked: list[str] = []
    interrupt_at: str | None = None

    def __init__(self, *, data_preprocessor: dict) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.share = nn.Parameter(torch.tensor(0.2))

    def forward(self, inputs: Tensor, data_samples: list[SceneSample], mode: str = 'tensor') -> list[SceneSample]:
        [sample] = data_samples
        self.asked.append(sample.scene_id)
        if sample.scene_id == self.interrupt_at:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(int(sample.scene_id[5:9]))
        result = as_predicted(sample)
        wrong = torch.rand(SIZE, generator=generator) < self.share
        category, instance = sample.gt_panoptic.category, sample.gt_panoptic.instance
        result.pred_panoptic = PanopticMap(torch.where(wrong, 0, category), torch.where(wrong, 0, instance))
        result.pred_semantic = nn.functional.one_hot(result.pred_panoptic.category, 20).movedim(-1, 1).float()
        truth = sample.gt_reconstruction
        noise = 1 + 0.05 * torch.randn(SIZE, generator=generator)
        result.pred_reconstruction = Reconstruction.from_depth(
            truth.depth * noise, truth.intrinsics, truth.camera_to_world
        )
        return [result]
