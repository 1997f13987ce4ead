"""Cameras with lens distortion as COLMAP describes them, and images of them without distortion."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

# Number of distortion coefficients after fx, fy, cx, cy
MODELS = {'PINHOLE': 0, 'OPENCV': 4, 'OPENCV_FISHEYE': 4}
HALF_PIXEL = 0.5


@dataclass(frozen=True, eq=False)
class DistortedCamera:
    """A camera in COLMAP's words: the centre of the top-left pixel is (0.5, 0.5), half a pixel off our convention.

    Args:
        model: 'PINHOLE', 'OPENCV' (k1, k2, p1, p2) or 'OPENCV_FISHEYE' (k1 to k4, equidistant).
        size: (width, height).
        matrix: (3, 3) float64, as in the file.
        coefficients: distortion, (0,) or (4,).
    """

    model: str
    size: tuple[int, int]
    matrix: np.ndarray
    coefficients: np.ndarray

    @property
    def intrinsics(self) -> np.ndarray:
        """(3, 3), with pixel (0, 0) as the centre of the top-left pixel; complete for a pinhole only."""
        return _shifted(self.matrix, HALF_PIXEL)

    def resized(self, size: tuple[int, int]) -> DistortedCamera:
        """The camera of the same image at another (width, height)."""
        scale = np.array([[size[0] / self.size[0]], [size[1] / self.size[1]], [1]])
        return DistortedCamera(self.model, size, self.matrix * scale, self.coefficients)

    @cached_property
    def undistorted(self) -> DistortedCamera:
        """A pinhole at the same place and of the same size that sees (nearly) only what this camera sees.

        For a fisheye it is the one that the official ScanNet++ tools choose, to the bit: OpenCV's estimate from the
        numbers of the file, with the principal point put into the middle of the image. Likewise for `OPENCV`.

        Raises:
            ValueError: if no pinhole can take the place of this lens.
        """
        if self.model == 'OPENCV_FISHEYE':
            matrix = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
                self.matrix, self.coefficients, self.size, np.eye(3), balance=0.0
            )
        elif self.model == 'OPENCV':
            matrix, _ = cv2.getOptimalNewCameraMatrix(
                self.matrix, self.coefficients, self.size, 0.0, self.size, centerPrincipalPoint=True
            )
        else:
            return self
        if not (np.isfinite(matrix).all() and matrix[0, 0] > 0 and matrix[1, 1] > 0):
            raise ValueError(f'no pinhole sees what a camera with distortion {self.coefficients.tolist()} sees')
        matrix[:2, 2] = self.size[0] / 2, self.size[1] / 2
        return DistortedCamera('PINHOLE', self.size, matrix, np.zeros(0))

    def rays(self) -> np.ndarray:
        """Directions (H, W, 3) float64 through the pixel centres, OpenCV axes, z = 1.

        Not a number where a fisheye pixel looks sideways or backwards.
        """
        width, height = self.size
        pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float64)
        if self.model == 'OPENCV_FISHEYE':
            points = cv2.fisheye.undistortPoints(pixels, self.intrinsics, self.coefficients)
            points[np.hypot(points[..., 0], points[..., 1]) > 1e4] = np.nan  # OpenCV marks failure by -1e6
        else:
            points = (pixels - self.intrinsics[:2, 2]) / np.diag(self.intrinsics)[:2]
            if self.model == 'OPENCV':
                points = _without_distortion(points, self.coefficients)
        return np.concatenate([points, np.ones((height, width, 1))], axis=-1)


class Undistortion:
    """Resamples images of one camera to those of a pinhole at the same place.

    Args:
        source: camera of the images.
        target: the pinhole, of any size; `source.undistorted` for instance.
        pixel_centre: where the numbers of a camera put the centre of pixel 0. COLMAP's 0.5 is right; 0 gives what the
            official ScanNet++ tools write, which hand COLMAP's numbers to OpenCV as they are. Their images are off by
            half a pixel of the source: by a tenth of a pixel in the middle and more than one near the corners.
    """

    def __init__(self, source: DistortedCamera, target: DistortedCamera, *, pixel_centre: float = HALF_PIXEL) -> None:
        before, after = (_shifted(camera.matrix, pixel_centre) for camera in (source, target))
        make_maps = (
            cv2.fisheye.initUndistortRectifyMap if source.model == 'OPENCV_FISHEYE' else cv2.initUndistortRectifyMap
        )
        self._maps = make_maps(before, source.coefficients, np.eye(3), after, target.size, cv2.CV_32FC1)
        self._size = source.size
        x, y = self._maps
        width, height = source.size
        #: (H, W) bool, whether the source camera sees a pixel of the target
        self.seen = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)

    def color(self, image: np.ndarray) -> np.ndarray:
        """Bilinear samples of an image (H, W, C) uint8; reflected at the border where the source sees nothing."""
        return cv2.remap(self._checked(image), *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)

    def nearest(self, image: np.ndarray) -> np.ndarray:
        """Nearest samples of a map (H, W), whose values may not be mixed; 0 where the source sees nothing."""
        samples = cv2.remap(self._checked(image), *self._maps, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        return np.where(self.seen, samples, 0).astype(image.dtype)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Mask (H, W) uint8, 255 = valid, 0 = not: a pixel is valid if it takes nothing from an invalid one."""
        samples = cv2.remap(
            self._checked(mask), *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=255
        )
        return np.where(samples == 255, 255, 0).astype(np.uint8)

    def _checked(self, image: np.ndarray) -> np.ndarray:
        width, height = self._size
        if image.shape[:2] != (height, width):
            raise ValueError(f'the image must be of size {width}x{height}, got {image.shape[1]}x{image.shape[0]}')
        return image


def _without_distortion(distorted: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Invert the radial and tangential distortion of points (..., 2) at z = 1 by fixed-point iteration."""
    k1, k2, p1, p2 = coefficients
    points = distorted
    for _ in range(50):  # lenses of this model converge in a few steps
        x, y = points[..., 0], points[..., 1]
        squared = x * x + y * y
        tangential = np.stack(
            [2 * p1 * x * y + p2 * (squared + 2 * x * x), p1 * (squared + 2 * y * y) + 2 * p2 * x * y], axis=-1
        )
        points = (distorted - tangential) / (1 + k1 * squared + k2 * squared * squared)[..., None]
    return points


def _shifted(matrix: np.ndarray, pixels: float) -> np.ndarray:
    shifted = matrix.copy()
    shifted[:2, 2] -= pixels
    return shifted
