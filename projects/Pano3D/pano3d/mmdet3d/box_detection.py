"""3D boxes by mmdet3d's `ImVoxelHead` on our features in a volume."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import Tensor

from pano3d.models import ExtraHead, ViewFeatures
from pano3d.registry import MODELS
from pano3d.structures import LabelSpace, Reconstruction, SceneSample

from .canonical_scene import FRAMES, UNITS, CanonicalScene, boxes_of_instances, canonical_rotation, canonical_scene
from .versions import require
from .voxel_lifting import lift_features

if TYPE_CHECKING:
    from mmdet3d.structures import DepthInstance3DBoxes
    from mmengine.structures import InstanceData

CAMERAS = ('predicted', 'given')


@MODELS.register_module()
class BoxDetection(ExtraHead):
    """ImVoxelNet (arXiv 2106.01178) behind our network: a bridge, the volume, mmdet3d's 3D neck and head.

    Every voxel of a fixed volume gets the mean of what the views show at its centre. True boxes are those around the
    visible points of instances, parallel to the axes of the volume; see `canonical_rotation` for these axes. The frame
    has its origin at the first camera, and it is turned against gravity where the sample tells it: then the direction
    of gravity at the first camera is an input, as in ImVoxelNet on SUN RGB-D.

    Args:
        bridge: config of the feature bridge, E and F -> channels of the volume.
        neck: arguments of mmdet3d's `IndoorImVoxelNeck`.
        bbox_head: arguments of mmdet3d's `ImVoxelHead` without `n_classes`, `n_levels`, `n_channels`, `n_reg_outs` and
            `prior_generator`, which follow from the rest.
        volume: lowest and highest x, y, z, in `unit`.
        num_voxels: along x, y, z; multiples of 2 to the power of the neck's levels less one.
        label_space: the classes; boxes have the indices of its categories.
        cameras: 'predicted', or 'given': the true cameras of the sample, which must then be known in prediction, too.
        unit: of the volume, see `canonical_scene`; 'metres' needs a network with metric scale, or given cameras.
        frame: see `canonical_rotation`.
        max_boxes: at most so many boxes of a scene, those with the best scores.
        min_points: true instances with fewer visible pixels are none.
        surface_margin: see `lift_features`.

    Raises:
        ImportError: if mmdet3d is missing; says how to install it.
        ValueError: on an unknown choice, given cameras up to scale, or voxels that the neck cannot halve.
    """

    def __init__(
        self,
        *,
        bridge: dict,
        neck: dict,
        bbox_head: dict,
        volume: Sequence[float],
        num_voxels: Sequence[int],
        label_space: str,
        cameras: str = 'predicted',
        unit: str = 'mean_distance',
        frame: str = 'aligned',
        max_boxes: int = 100,
        min_points: int = 20,
        surface_margin: float | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        require('mmdet3d')
        for name, value, known in (('cameras', cameras, CAMERAS), ('unit', unit, UNITS), ('frame', frame, FRAMES)):
            if value not in known:
                raise ValueError(f'`{name}` must be one of {known}, got {value!r}')
        if cameras == 'given' and unit != 'metres':
            raise ValueError("given cameras are metric and nothing tells their scale apart; set `unit='metres'`")
        _check_volume(volume, num_voxels, levels=len(neck['n_blocks']))
        self.bridge = MODELS.build(bridge)
        self.num_voxels = tuple(num_voxels)
        self.label_space = LabelSpace.load(label_space)
        self.cameras = cameras
        self.unit = unit
        self.frame = frame
        self.max_boxes = max_boxes
        self.min_points = min_points
        self.surface_margin = surface_margin
        self.neck, self.bbox_head = self._build(neck, bbox_head, [float(value) for value in volume])

    def _build(self, neck: dict, bbox_head: dict, volume: list[float]) -> tuple[Any, Any]:
        """mmdet3d's modules, in whose scope their configs are read."""
        from mmdet3d.models.necks import IndoorImVoxelNeck

        from .aligned_imvoxel import AlignedImVoxelHead

        test_cfg = {'nms_pre': 1000, 'iou_thr': 0.25, 'score_thr': 0.01} | dict(bbox_head.get('test_cfg') or {})
        arguments = copy.deepcopy({name: value for name, value in bbox_head.items() if name != 'test_cfg'})
        with DefaultScope.overwrite_default_scope('mmdet3d'):
            return IndoorImVoxelNeck(**copy.deepcopy(dict(neck))), AlignedImVoxelHead(
                n_classes=self.label_space.num_classes,
                n_levels=len(neck['n_blocks']),
                n_channels=neck['out_channels'],
                prior_generator=dict(type='AlignedAnchor3DRangeGenerator', ranges=[volume], rotations=[0.0]),
                test_cfg=ConfigDict(test_cfg),
                **arguments,
            )

    def loss(
        self, views: ViewFeatures, reconstruction: Reconstruction, samples: Sequence[SceneSample]
    ) -> dict[str, Tensor]:
        """Terms `center`, `bbox` and `cls` of ImVoxelNet."""
        from mmdet3d.structures import Det3DDataSample
        from mmengine.structures import InstanceData

        targets = []
        for sample in samples:
            boxes, labels = true_boxes(sample, unit=self.unit, frame=self.frame, min_points=self.min_points)
            target = Det3DDataSample()
            target.gt_instances_3d = InstanceData(bboxes_3d=as_depth_boxes(boxes), labels_3d=labels)
            targets.append(target)
        levels, seen = self._volume(views, reconstruction, samples)
        terms = self.bbox_head.loss((*levels, seen), targets)
        return {name.removesuffix('_loss'): value for name, value in terms.items()}

    def predict(
        self, views: ViewFeatures, reconstruction: Reconstruction, samples: Sequence[SceneSample]
    ) -> list[InstanceData]:
        """Boxes of each scene as mmdet3d's `bboxes_3d`, `scores_3d` and `labels_3d`.

        Their meta information has `unit`, `frame` and `min_points`: what true boxes to compare them with are made of.
        """
        from mmdet3d.structures import DepthInstance3DBoxes, Det3DDataSample

        inputs = [Det3DDataSample(metainfo={'box_type_3d': DepthInstance3DBoxes}) for _ in samples]
        levels, seen = self._volume(views, reconstruction, samples)
        results = []
        for found in self.bbox_head.predict((*levels, seen), inputs):
            best = found[found.scores_3d.argsort(descending=True)[: self.max_boxes]]
            best.set_metainfo({'unit': self.unit, 'frame': self.frame, 'min_points': self.min_points})
            results.append(best)
        return results

    def _volume(
        self, views: ViewFeatures, reconstruction: Reconstruction, samples: Sequence[SceneSample]
    ) -> tuple[list[Tensor], Tensor]:
        """What the neck makes of the volumes (B, C, X, Y, Z), and which voxels (B, 1, X, Y, Z) a view sees, 0 or 1."""
        maps = self.bridge(views.sources).mT.unflatten(3, views.grid)
        centres = self.centres(maps.device)
        sizes = _sizes(views, reconstruction)
        volumes, seen = [], []
        for index, sample in enumerate(samples):
            volume, known = lift_features(
                maps[index],
                self._scene(reconstruction[index], sample),
                centres.flatten(0, 2),
                sizes=sizes[index],
                surface_margin=self.surface_margin,
            )
            volumes.append(volume.T.unflatten(1, self.num_voxels))
            seen.append(known.view(1, *self.num_voxels))
        return self.neck(torch.stack(volumes)), torch.stack(seen).float()

    def _scene(self, predicted: Reconstruction, sample: SceneSample) -> CanonicalScene:
        if self.cameras == 'given':
            if 'gt_reconstruction' not in sample:
                raise ValueError("`cameras='given'` needs `gt_reconstruction` in the sample; take 'predicted' without")
            predicted = sample.gt_reconstruction
        rotation = canonical_rotation(sample, frame=self.frame).to(predicted.points)
        return canonical_scene(predicted, rotation=rotation, unit=self.unit)

    def centres(self, device: torch.device) -> Tensor:
        """Centres of the voxels (X, Y, Z, 3), from mmdet3d's own generator, so that head and volume agree."""
        shape = self.num_voxels[::-1]
        anchors = self.bbox_head.prior_generator.grid_anchors([shape], device=device)[0][:, :3]
        return anchors.view(*shape, 3).permute(2, 1, 0, 3)


def true_boxes(sample: Mapping[str, Any], *, unit: str, frame: str, min_points: int) -> tuple[Tensor, Tensor]:
    """Boxes (N, 6), centre and size, and categories (N,) of the instances of a scene in its canonical frame."""
    truth, labels = sample.get('gt_reconstruction'), sample.get('gt_panoptic')
    scene = canonical_scene(truth, rotation=canonical_rotation(sample, frame=frame), unit=unit)
    return boxes_of_instances(scene.points, scene.valid, labels.category, labels.instance, min_points=min_points)


def as_depth_boxes(boxes: Tensor) -> DepthInstance3DBoxes:
    """Boxes (N, 6), centre and size, as mmdet3d's."""
    from mmdet3d.structures import DepthInstance3DBoxes

    return DepthInstance3DBoxes(boxes, box_dim=6, with_yaw=False, origin=(0.5, 0.5, 0.5))


def _sizes(views: ViewFeatures, reconstruction: Reconstruction) -> Tensor:
    """Height and width in pixels that each view fills, (B, V, 2)."""
    canvas = reconstruction.valid.new_tensor(reconstruction.valid.shape[-2:], dtype=torch.int64)
    if views.extents is None:
        return canvas.expand(*reconstruction.valid.shape[:2], 2)
    return views.extents * (canvas[0] // views.grid[0])


def _check_volume(volume: Sequence[float], num_voxels: Sequence[int], *, levels: int) -> None:
    if len(volume) != 6 or not all(low < high for low, high in zip(volume[:3], volume[3:], strict=True)):
        raise ValueError(f'`volume` must be the lowest x, y, z and then the highest, got {list(volume)}')
    if len(num_voxels) != 3 or any(number < 1 or number % 2 ** (levels - 1) for number in num_voxels):
        raise ValueError(
            f'`num_voxels` must be three multiples of {2 ** (levels - 1)}, which the neck halves {levels - 1} times, '
            f'got {list(num_voxels)}'
        )
