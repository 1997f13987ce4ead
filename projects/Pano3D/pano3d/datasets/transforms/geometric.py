"""Transforms that change the cameras, and with them every modality."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pano3d.registry import TRANSFORMS

from .base import Transform, check_fraction

Intrinsics = NDArray[np.float64]

# Shrinking by an even factor puts every sampling point exactly between two pixels: a bias much above rounding noise
# and much below a pixel makes all of them take the lower one, on every machine.
TIE_BIAS = 1e-6


@TRANSFORMS.register_module()
class ResizeCrop(Transform):
    """Bring colour, depth and instance map of each view into one camera of one size.

    Colour is scaled until it just covers the target, then cropped; this fixes the target intrinsics. Depth and
    instance map are sampled at the nearest pixel on the same ray; where their image does not reach they are 0. All
    three share the pose, so the depth values stay as they are.

    Args:
        size: target (height, width) in pixels.
        crop: 'center', or 'random': one random position for all views of a scene.

    Raises:
        ValueError: if `LoadViews` has left out pixels of colour that this size needs.
    """

    def __init__(self, *, size: tuple[int, int], crop: Literal['center', 'random'] = 'center') -> None:
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f'`size` must be (height, width), got {size}')
        if crop not in ('center', 'random'):
            raise ValueError(f"`crop` must be 'center' or 'random', got {crop!r}")
        self.size = (int(size[0]), int(size[1]))
        self.crop = crop

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        position = results['rng'].random(2) if self.crop == 'random' else np.array([0.5, 0.5])
        colors, depths, instances, cameras = [], [], [], []
        for color, depth, instance, color_camera, depth_camera, instance_camera in zip(
            *(results[k] for k in ('color', 'depth', 'instance', 'color_intrinsics', 'depth_intrinsics')),
            results.get('instance_intrinsics', results['color_intrinsics']),
            strict=True,
        ):
            if color.shape[:2] != instance.shape and (np.array(color.shape[:2]) < self.size).any():
                raise ValueError(
                    f'`size` {self.size} needs more than the {color.shape[:2]} pixels that LoadViews has decoded; give '
                    'it this size as `min_size`'
                )
            cropped, to_target = resize_and_crop(color, self.size, position)
            camera = to_target @ color_camera
            colors.append(cropped)
            depths.append(resample_nearest(depth, depth_camera, camera, self.size))
            instances.append(resample_nearest(instance, instance_camera, camera, self.size))
            cameras.append(camera)
        kept = {k: v for k, v in results.items() if not k.endswith('_intrinsics')}
        return {
            **kept,
            'color': np.stack(colors),
            'depth': np.stack(depths),
            'instance': np.stack(instances),
            'intrinsics': np.stack(cameras),
        }


@TRANSFORMS.register_module()
class MirrorScene(Transform):
    """Mirror the whole scene left-right: pictures, cameras and world, all views together. After ResizeCrop.

    Flipping pictures alone would turn a right-handed world into one that no camera motion explains. Here every point
    (x, y, z) of world and cameras becomes (-x, y, z), so that poses stay rotations and every point still projects to
    where it is seen. The mesh of the scene does not fit any more and is dropped.

    Args:
        prob: probability of mirroring.

    Raises:
        ValueError: before ResizeCrop.
    """

    def __init__(self, *, prob: float = 0.5) -> None:
        self.prob = check_fraction('prob', prob)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if 'intrinsics' not in results:
            raise ValueError('MirrorScene must come after ResizeCrop')
        if results['rng'].random() >= self.prob:
            return results
        flipped = {key: results[key][:, :, ::-1] for key in ('color', 'depth', 'instance')}
        intrinsics = results['intrinsics'].copy()
        intrinsics[:, 0, 2] = results['depth'].shape[2] - 1 - intrinsics[:, 0, 2]
        mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
        return {
            **results,
            **flipped,
            'scene': replace(results['scene'], mesh=None),
            'intrinsics': intrinsics,
            'camera_to_world': mirror @ results['camera_to_world'] @ mirror,
        }


def resize_and_crop(
    image: NDArray[np.uint8], size: tuple[int, int], position: NDArray[np.float64]
) -> tuple[np.ndarray, Intrinsics]:
    """Scale an image (h, w, 3) to cover `size` (H, W), then crop to it.

    Args:
        image: any size.
        size: (H, W).
        position: of the crop, (x, y) in [0, 1]: 0 left or top, 1 right or bottom.

    Returns:
        The image (H, W, 3), and the 3x3 map from old to new pixel coordinates (pixel centres at integers), which
        also maps intrinsics: `new = map @ old`.
    """
    old, new = np.array(image.shape[1::-1]), np.array(size[::-1])
    full = np.maximum(np.rint(old * (new / old).max()).astype(int), new)
    scale = full / old
    # Area averaging is the filter that neither blurs nor aliases when shrinking; it has no meaning when enlarging.
    interpolation = cv2.INTER_AREA if (scale < 1).any() else cv2.INTER_CUBIC
    resized = cv2.resize(image, (int(full[0]), int(full[1])), interpolation=interpolation)
    left, top = np.minimum(position * (full - new + 1), full - new).astype(int)
    shift = 0.5 * scale - 0.5 - (left, top)
    to_target = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]], [0, 0, 1]])
    return resized[top : top + size[0], left : left + size[1]], to_target


def resample_nearest(image: np.ndarray, source: Intrinsics, target: Intrinsics, size: tuple[int, int]) -> np.ndarray:
    """What a camera with other intrinsics at the same pose sees: the nearest pixel on the ray, else 0.

    Args:
        image: (h, w), seen with intrinsics `source` (3, 3).
        source, target: without skew, so that rows and columns are independent.
        size: (H, W) of the result.
    """
    to_source = source @ np.linalg.inv(target)
    rows = _nearest(to_source[1, 1] * np.arange(size[0]) + to_source[1, 2])
    columns = _nearest(to_source[0, 0] * np.arange(size[1]) + to_source[0, 2])
    # Rows first: they lie together. Then one of the two is small.
    result = image.take(rows, axis=0, mode='clip').take(columns, axis=1, mode='clip')
    result[(rows < 0) | (rows >= image.shape[0])] = 0
    result[:, (columns < 0) | (columns >= image.shape[1])] = 0
    return result


def _nearest(coordinates: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.floor(coordinates + 0.5 - TIE_BIAS).astype(np.int64)
