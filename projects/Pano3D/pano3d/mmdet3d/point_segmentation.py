"""Semantic segmentation of the predicted point cloud by mmdet3d's MinkUNet."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from torch import Tensor
from torch.nn import functional as F

from pano3d.models import ExtraHead, ViewFeatures
from pano3d.registry import MODELS
from pano3d.structures import LabelSpace, Reconstruction, SceneSample

from .canonical_scene import FRAMES, UNITS, canonical_rotation, canonical_scene
from .sparse import SparseVoxels, keep_weight_layout, require_spconv, voxelise
from .versions import require


@MODELS.register_module()
class PointSegmentation(ExtraHead):
    """MinkUNet (arXiv 1904.08755) on the predicted points of all views, with our features.

    Points of the predicted point maps are sorted into voxels in the frame of `canonical_rotation`; a voxel has the mean
    of their features and of their places. In training the label of a voxel is that of most of its pixels.

    Args:
        bridge: config of the feature bridge, E and F -> features of points.
        unet: arguments of mmdet3d's `MinkUNetBackbone` without `in_channels` and `sparseconv_backend`, which is spconv.
        classifier: arguments of mmdet3d's `MinkUNetHead` without `channels`, `num_classes` and `ignore_index`.
        label_space: the classes.
        voxel_size: edge of a voxel, in `unit`.
        unit: see `canonical_scene`; 'metres' needs a network with metric scale.
        frame: see `canonical_rotation`.
        stride: in training every so manieth pixel along each axis is a point; in prediction every pixel is one.

    Raises:
        ImportError: if mmdet3d or spconv is missing; says how to install it.
        ValueError: on an unknown choice, or a stride below 1.
    """

    def __init__(
        self,
        *,
        bridge: dict,
        unet: dict,
        classifier: dict,
        label_space: str,
        voxel_size: float,
        unit: str = 'mean_distance',
        frame: str = 'aligned',
        stride: int = 2,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        require('mmdet3d')
        require_spconv()
        for name, value, known in (('unit', unit, UNITS), ('frame', frame, FRAMES)):
            if value not in known:
                raise ValueError(f'`{name}` must be one of {known}, got {value!r}')
        if stride < 1:
            raise ValueError(f'`stride` must be at least 1, got {stride}')
        self.bridge = MODELS.build(bridge)
        self.label_space = LabelSpace.load(label_space)
        self.voxel_size = voxel_size
        self.unit = unit
        self.frame = frame
        self.stride = stride
        self.unet, self.classifier = self._build(bridge['out_dim'], unet, classifier)
        keep_weight_layout(self)

    def _build(self, channels: int, unet: dict, classifier: dict) -> tuple[Any, Any]:
        """mmdet3d's modules, in whose scope their configs are read; they change what they are given."""
        from mmdet3d.models.backbones import MinkUNetBackbone
        from mmdet3d.models.decode_heads import MinkUNetHead

        unet = {name: list(value) if isinstance(value, Sequence) else value for name, value in unet.items()}
        with DefaultScope.overwrite_default_scope('mmdet3d'):
            return MinkUNetBackbone(in_channels=channels + 3, sparseconv_backend='spconv', **unet), MinkUNetHead(
                channels=list(unet['decoder_channels'])[-1],
                num_classes=self.label_space.num_classes,
                ignore_index=self.label_space.num_classes,
                **copy.deepcopy(dict(classifier)),
            )

    def loss(
        self, views: ViewFeatures, reconstruction: Reconstruction, samples: Sequence[SceneSample]
    ) -> dict[str, Tensor]:
        """Term `sem_seg` of mmdet3d's head, a mean over the voxels with a label."""
        from mmdet3d.structures import Det3DDataSample, PointData

        void = self.label_space.num_classes
        every = slice(None, None, self.stride)
        category = torch.stack([sample.gt_panoptic.category for sample in samples])[:, :, every, every]
        features, voxels, chosen = self._voxels(views, reconstruction, samples, self.stride)
        if voxels is None:
            return {'sem_seg': features.sum() * 0}
        labels = torch.where(category >= 0, category, void)[chosen]
        target = Det3DDataSample()
        target.gt_pts_seg = PointData(voxel_semantic_mask=voxels.majority(labels, void + 1))
        terms = self.classifier.loss(self._refined(features, voxels), [target], {})
        return {name.removeprefix('loss_'): value for name, value in terms.items()}

    def predict(
        self, views: ViewFeatures, reconstruction: Reconstruction, samples: Sequence[SceneSample]
    ) -> list[PixelData]:
        """Of each scene `category` (V, H, W): that of the voxel of each predicted point, -1 where there is no point."""
        from mmdet3d.structures import Det3DDataSample

        result = torch.full_like(reconstruction.valid, -1, dtype=torch.int64)
        features, voxels, chosen = self._voxels(views, reconstruction, samples, 1)
        if voxels is not None:
            scene = chosen.nonzero()[:, 0]
            first = torch.searchsorted(voxels.indices[:, 0].contiguous(), torch.arange(len(samples)).to(scene).int())
            inputs = []
            for index in range(len(samples)):
                item = Det3DDataSample()
                item.batch_idx = voxels.indices[voxels.indices[:, 0] == index, 0]
                item.point2voxel_map = voxels.voxel_of_point[scene == index] - first[index]
                inputs.append(item)
            logits = self.classifier.predict(self._refined(features, voxels), inputs)
            result[chosen] = torch.cat([scores.argmax(1) for scores in logits])
        return [PixelData(category=category, metainfo={'label_space': self.label_space.name}) for category in result]

    def _refined(self, features: Tensor, voxels: SparseVoxels) -> Tensor:
        """What the U-Net makes of features (N, C + 3)."""
        return self.unet(features, voxels.for_halving(self.unet.num_stages))

    def _voxels(
        self, views: ViewFeatures, reconstruction: Reconstruction, samples: Sequence[SceneSample], stride: int
    ) -> tuple[Tensor, SparseVoxels | None, Tensor]:
        """Features (N, C + 3) of voxels, the voxels (None without a point), which pixels (B, V, h, w) are points."""
        maps = self.bridge(views.sources).mT.unflatten(3, views.grid)
        scenes = [
            canonical_scene(item, rotation=canonical_rotation(sample, frame=self.frame).to(item.points), unit=self.unit)
            for item, sample in zip((reconstruction[index] for index in range(len(samples))), samples, strict=True)
        ]
        every = slice(None, None, stride)
        points = torch.stack([scene.points for scene in scenes])[:, :, every, every]
        chosen = torch.stack([scene.valid for scene in scenes])[:, :, every, every]
        if not chosen.any():
            return maps, None, chosen
        size = tuple(reconstruction.valid.shape[-2:])
        dense = torch.stack([_at_pixels(scene_maps, size, stride) for scene_maps in maps])
        batch = chosen.nonzero()[:, 0]
        voxels = voxelise(points[chosen], batch, voxel_size=self.voxel_size, num_scenes=len(samples))
        return voxels.mean(torch.cat([dense[chosen], points[chosen]], dim=1)), voxels, chosen


def _at_pixels(maps: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Maps (V, C, h, w) that cover images of a size, bilinearly at every so manieth pixel: (V, H', W', C)."""
    full = F.interpolate(maps, size, mode='bilinear', align_corners=False)
    return full[:, :, ::stride, ::stride].permute(0, 2, 3, 1)
