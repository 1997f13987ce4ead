"""ImVoxelNet of mmdet3d on several views per sample; imports mmdet3d and registers there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmdet3d.models.detectors import ImVoxelNet
from mmdet3d.models.layers.fusion_layers.point_fusion import point_sample
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample
from mmdet3d.structures.bbox_3d import get_proj_mat_by_coord_type
from torch import Tensor


@MODELS.register_module()
class MultiViewImVoxelNet(ImVoxelNet):
    """A voxel has the mean of what the views show that see it; the rest, and all arguments, are `ImVoxelNet`'s.

    Images are (B, V, 3, H, W) and the backbone takes them so, as `VGGTFeatures` does. The projection in each sample's
    meta information (`depth2img`, `lidar2img` or `cam2img`, as `coord_type` says) is (V, 4, 4), for images of one size
    and one augmentation. Points behind a camera are not seen by it.

    Source: Rukhovich et al., "ImVoxelNet", WACV 2022, section 3.2.
    """

    def extract_feat(
        self, batch_inputs_dict: dict[str, Tensor], batch_data_samples: list[Det3DDataSample]
    ) -> tuple[Any, Tensor]:
        """Output of the 3D neck, and which voxels (B, 1, X, Y, Z) a view sees, 0 or 1.

        Raises:
            ValueError: if the images are not (B, V, 3, H, W), or a sample has not V projections.
        """
        images = batch_inputs_dict['imgs']
        if images.ndim != 5:
            raise ValueError(f'images must have shape (B, V, 3, H, W), got {tuple(images.shape)}')
        maps = self.neck(self.backbone(images))[0].unflatten(0, images.shape[:2])
        shape = self.n_voxels[::-1]
        centres = self.prior_generator.grid_anchors([shape], device=images.device)[0][:, :3]
        volumes, seen = [], []
        for views, sample in zip(maps, batch_data_samples, strict=True):
            mean, known = self._lift(views, sample.metainfo, centres, tuple(images.shape[-2:]))
            volumes.append(mean.view(*shape, -1).permute(3, 2, 1, 0))
            seen.append(known.view(1, *shape).permute(0, 3, 2, 1))
        return self.neck_3d(torch.stack(volumes)), torch.stack(seen).float()

    def _lift(
        self, views: Tensor, meta: Mapping[str, Any], centres: Tensor, padded_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Mean features (N, C) of voxels at `centres` (N, 3) over the maps (V, C, h, w), and which are seen (N,)."""
        projections = centres.new_tensor(get_proj_mat_by_coord_type(meta, self.coord_type))
        if projections.shape != (len(views), 4, 4):
            raise ValueError(
                f'the projection of a sample must be ({len(views)}, 4, 4), one for each view, '
                f'got {tuple(projections.shape)}'
            )
        total = views.new_zeros(len(centres), views.shape[1])
        count = views.new_zeros(len(centres), 1)
        for view, projection in zip(views, projections, strict=True):
            features, known = point_sample(
                meta,
                img_features=view[None],
                points=centres,
                proj_mat=projection,
                coord_type=self.coord_type,
                img_scale_factor=centres.new_tensor(meta.get('scale_factor', (1.0, 1.0))[:2]),
                img_crop_offset=centres.new_tensor(meta.get('img_crop_offset', (0.0, 0.0))),
                img_flip=meta.get('flip', False),
                img_pad_shape=padded_size,
                img_shape=meta['img_shape'][:2],
                aligned=False,
                valid_flag=True,
            )
            total = total + features
            count = count + known[:, None]
        return total / count.clamp(min=1), count[:, 0] > 0
