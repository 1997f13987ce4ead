"""The frames of a ScanNet++ scan: images without lens distortion, depth, instance maps and masks."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

import numpy as np

from . import iphone_depth
from .colmap import PosedImage, read_cameras, read_posed_images
from .distorted_camera import DistortedCamera, Undistortion
from .images import encode_jpeg, encode_png, to_millimetres
from .iphone_depth import IPhoneDepthReader
from .scannetpp_labels import read_bad_frames
from .scannetpp_scan import DSLRImages, IPhoneImages, PPScan, frame_number
from .scene_store import ConversionReport

if TYPE_CHECKING:
    from .rasterise import MeshRasteriser

DEPTH_SCALE = 0.001
DepthSource = Literal['mesh', 'sensor']


class _View:
    """What all frames of one camera share: how its images lose their distortion, and the rays of the result."""

    def __init__(self, camera: DistortedCamera, depth_size: tuple[int, int]) -> None:
        self.target = camera.undistorted
        self.undistortion = Undistortion(camera, self.target)
        self.rays = self.target.rays()
        self.depth_target = self.target.resized(depth_size)
        self.depth_undistortion = Undistortion(camera.resized(depth_size), self.depth_target)
        self.mask_to_depth = Undistortion(self.target, self.depth_target)


@dataclass(frozen=True, eq=False)
class _Pictures:
    """What is stored of one frame."""

    color: bytes
    depth: bytes
    instance: bytes
    mask: bytes | None


class PPFrameWriter:
    """Writes the frames of one camera of a scan.

    Args:
        scan: where they come from.
        folder: where `color`, `depth`, `instance` and `mask` go.
        rasteriser: the mesh with the labels of the instance maps.
        annotated: whether instance maps are to be written.
        depth: 'mesh', or 'sensor' for the LiDAR depth of the iPhone.
        report: gets the frames that were left out and warnings.

    Raises:
        ValueError, OSError: if a file is missing or unusable.
    """

    def __init__(
        self,
        scan: PPScan,
        folder: Path,
        *,
        rasteriser: MeshRasteriser,
        annotated: bool,
        depth: DepthSource,
        report: ConversionReport,
    ) -> None:
        self._scan, self._folder, self._report = scan, folder, report
        self._rasteriser, self._annotated, self._depth = rasteriser, annotated, depth
        self._images = DSLRImages(scan) if scan.camera == 'dslr' else IPhoneImages(scan)
        self._cameras_path = scan.of_camera('colmap/cameras.txt')
        self._cameras = read_cameras(self._cameras_path)
        self._view_of: tuple[int, _View] | None = None

    def store(self, frame_skip: int) -> list[dict[str, object]]:
        """Write every n-th registered frame, in the order of the names; return the records of the scene format.

        Raises:
            ValueError: if there is no good frame.
        """
        images = self._registered()
        self._report.frames_total = len(images)
        bad = self._bad_frames()
        records: list[dict[str, object]] = []
        with ExitStack() as stack:
            sensor = None
            if self._depth == 'sensor':
                sensor = stack.enter_context(IPhoneDepthReader(self._scan.of_camera('depth.bin')))
            for frame_id, image in images[::frame_skip]:
                if PurePosixPath(image.name).name in bad:
                    self._report.frames_marked_bad.append(frame_id)
                    continue
                try:
                    view, pictures = self._pictures(image, sensor)
                except (ValueError, FileNotFoundError) as error:
                    self._report.frames_damaged.append(frame_id)
                    self._report.warnings.append(f'{error}; the frame {frame_id} is left out')
                    continue
                records.append(self._record(frame_id, image, view, pictures))
        if not records:
            raise ValueError(
                f'{self._scan.of_camera("colmap/images.txt")}: no usable frame among every {frame_skip}. of '
                f'{len(images)} images: {len(self._report.frames_marked_bad)} are marked bad; '
                f'{"; ".join(self._report.warnings) or "none is damaged"}'
            )
        return records

    def _registered(self) -> list[tuple[str, PosedImage]]:
        """(frame id, image) of all images that COLMAP has registered, in the order of their ids."""
        path = self._scan.of_camera('colmap/images.txt')
        images: dict[str, PosedImage] = {}
        for image in read_posed_images(path):
            try:
                frame_id = self._images.frame_id(image)
            except ValueError as error:
                raise ValueError(f'{path}: {error}') from error
            if frame_id in images:
                raise ValueError(f'{path}: {images[frame_id].name!r} and {image.name!r} are the same frame')
            if image.camera_id not in self._cameras:
                raise ValueError(
                    f'{path}: {image.name!r} is of camera {image.camera_id}; {self._cameras_path} has '
                    f'{sorted(self._cameras)}'
                )
            images[frame_id] = image
        return sorted(images.items())

    def _bad_frames(self) -> set[str]:
        path = self._scan.of_camera('nerfstudio/transforms.json')
        if not path.is_file():
            self._report.warnings.append(f'{path}: not there; bad frames are not left out')
            return set()
        return read_bad_frames(path)

    def _pictures(self, image: PosedImage, sensor: IPhoneDepthReader | None) -> tuple[_View, _Pictures]:
        camera = self._cameras[image.camera_id]
        color = self._images.color(image, camera.size)
        mask = self._images.mask(image, camera.size)
        measured = None if sensor is None else sensor.read(frame_number(image))
        view = self._view(image.camera_id, camera)  # after the image has proved the size that the camera claims
        seen = np.where(view.undistortion.seen, 255, 0).astype(np.uint8)
        valid = seen if mask is None else np.minimum(seen, view.undistortion.mask(mask))
        depth, instance = self._rasteriser.view(view.rays, image.camera_to_world)
        if measured is None:
            millimetres = np.where(valid == 255, to_millimetres(depth), 0)
        else:
            known = measured if measured.dtype == np.uint16 else to_millimetres(measured)
            millimetres = view.depth_undistortion.nearest(known)
            millimetres = np.where(view.mask_to_depth.nearest(valid) == 255, millimetres, 0)
        return view, _Pictures(
            color=encode_jpeg(view.undistortion.color(color)),
            depth=encode_png(millimetres.astype(np.uint16)),
            instance=encode_png(np.where(valid == 255, instance, 0).astype(np.uint16)),
            mask=None if mask is None else encode_png(valid),
        )

    def _view(self, camera_id: int, camera: DistortedCamera) -> _View:
        if self._view_of is None or self._view_of[0] != camera_id:
            depth_size = iphone_depth.SIZE if self._depth == 'sensor' else camera.size
            self._view_of = camera_id, _View(camera, depth_size)
        return self._view_of[1]

    def _record(self, frame_id: str, image: PosedImage, view: _View, pictures: _Pictures) -> dict[str, object]:
        return {
            'id': frame_id,
            'color': self._write(f'color/{frame_id}.jpg', pictures.color),
            'depth': self._write(f'depth/{frame_id}.png', pictures.depth),
            'instance': self._write(f'instance/{frame_id}.png', pictures.instance) if self._annotated else None,
            'mask': None if pictures.mask is None else self._write(f'mask/{frame_id}.png', pictures.mask),
            'color_size': list(view.target.size),
            'color_intrinsics': view.target.intrinsics.tolist(),
            'depth_size': list(view.depth_target.size),
            'depth_intrinsics': view.depth_target.intrinsics.tolist(),
            'camera_to_world': image.camera_to_world.tolist(),
        }

    def _write(self, name: str, data: bytes) -> str:
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return name
