"""A network without weights to learn, whose answer can be computed by hand from the pixels.

`tiny_scenes` registers components: it is imported once, by its name.
"""

import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import Tensor, nn

from pano3d.registry import MODELS
from pano3d.structures import LabelSpace, PanopticMap, Reconstruction, SceneSample

sys.path.insert(0, str(Path(__file__).parent))


@MODELS.register_module(force=True)
class RedIsChair(BaseModel):
    """Red pixels are the one chair (category 4), all others wall; depth is 1 m + green; views lie 1 m apart in x."""

    def __init__(self, *, label_space: str, data_preprocessor: dict) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.label_space = LabelSpace.load(label_space)
        self.classifier = nn.Linear(2, self.label_space.num_classes)

    def forward(self, inputs: Tensor, data_samples: list[SceneSample], mode: str = 'tensor') -> list[SceneSample]:
        assert mode == 'predict' and not self.training
        [images], [sample] = inputs, data_samples
        views, _, height, width = images.shape
        chair = images[:, 0] > 0.5
        intrinsics = torch.tensor([[10.0, 0, (width - 1) / 2], [0, 10.0, (height - 1) / 2], [0, 0, 1]])
        camera_to_world = torch.eye(4).repeat(views, 1, 1)
        camera_to_world[:, 0, 3] = torch.arange(views)
        result = sample.clone()
        result.pred_panoptic = PanopticMap(chair.long() * 4, chair.long())
        result.pred_reconstruction = Reconstruction.from_depth(
            1 + images[:, 1], intrinsics.repeat(views, 1, 1), camera_to_world
        )
        result.pred_semantic = torch.stack([(~chair).float(), chair.float()], dim=1)
        result.pred_segments = [
            {'instance': 0, 'category': 0, 'score': 0.5},
            {'instance': 1, 'category': 4, 'score': 0.9},
        ]
        return [result]


@pytest.fixture
def config() -> Config:
    return Config(
        {
            'default_scope': 'pano3d',
            'model': {
                'type': 'RedIsChair',
                'label_space': 'scannet20',
                'data_preprocessor': {'type': 'SceneDataPreprocessor'},
            },
            'test_dataloader': {
                'dataset': {
                    'type': 'ScanNetMultiViewDataset',
                    'pipeline': [{'type': 'ResizeCrop', 'size': (20, 30)}, {'type': 'PackScene'}],
                }
            },
        }
    )
