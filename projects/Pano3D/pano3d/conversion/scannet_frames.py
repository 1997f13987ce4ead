"""The images of a ScanNet v2 scan: colour and depth from the recording, instances from the archive."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from .images import AnnotationArchive, check_jpeg, encode_png
from .poses import is_rigid
from .scannet_scan import Scan
from .scene_store import ConversionReport
from .sens import SensFrame, SensReader

if TYPE_CHECKING:
    from .rasterise import MeshRasteriser


def store_frames(
    scan: Scan,
    folder: Path,
    *,
    frame_skip: int,
    instance_ids: Collection[int],
    rasteriser: MeshRasteriser | None,
    report: ConversionReport,
) -> tuple[list[dict[str, object]], float]:
    """Write the images of every n-th frame.

    Args:
        scan: where they come from.
        folder: where `color`, `depth` and `instance` go.
        frame_skip: n.
        instance_ids: ids of the scan's objects.
        rasteriser: makes the instance maps that the release lacks; None for leaving them out.
        report: gets the frames that were left out, missing instance maps and warnings.

    Returns:
        The frame records of the scene format and the depth unit in metres.

    Raises:
        ValueError: if the recording cannot be used or has no good frame.
    """
    for kind in ('color', 'depth', 'instance'):
        (folder / kind).mkdir()
    records: list[dict[str, object]] = []
    with SensReader(scan.path('.sens')) as reader, _InstanceMaps(scan, reader.header.color_size, report) as maps:
        report.frames_total = reader.num_frames
        camera = _camera_record(reader, report)
        for frame in reader.frames(lambda index: index % frame_skip == 0):
            frame_id = f'{frame.index:06d}'
            if not frame.has_pose:
                report.frames_without_pose.append(frame_id)
                if np.isfinite(frame.camera_to_world).any():  # lost tracking leaves no finite number
                    report.warnings.append(f'{reader.path}: frame {frame.index}: pose: partly not finite; left out')
                continue
            try:
                _check_pose(reader, frame)
                depth, instance = _depth_png(reader, frame), maps.read(frame.index)
            except ValueError as error:
                report.frames_damaged.append(frame_id)
                report.warnings.append(f'{error}; the frame is left out')
                continue
            if instance is None and rasteriser is not None:
                instance = _rasterised_map(rasteriser, reader, frame)
                report.instance_maps_rasterised.append(frame_id)
            elif instance is None and scan.annotated:
                report.instance_maps_missing.append(frame_id)
            names = {
                'color': _store(folder, f'color/{frame_id}.jpg', frame.color),
                'depth': _store(folder, f'depth/{frame_id}.png', depth),
                'instance': None if instance is None else _store(folder, f'instance/{frame_id}.png', instance),
            }
            records.append({'id': frame_id, **names, **camera, 'camera_to_world': frame.camera_to_world.tolist()})
        maps.warn_of_unknown(instance_ids)
    if not records:
        raise ValueError(
            f'{reader.path}: no usable frame among every {frame_skip}. of {reader.num_frames} frames: '
            f'{len(report.frames_without_pose)} have no pose; {"; ".join(report.warnings) or "none is damaged"}'
        )
    return records, 1 / reader.header.depth_shift


def _store(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    return name


def _camera_record(reader: SensReader, report: ConversionReport) -> dict[str, object]:
    """Sizes and intrinsics of both cameras, which all frames share.

    Raises:
        ValueError: if intrinsics are not finite or a focal length is not positive.
    """
    header = reader.header
    cameras = {
        'color': (header.color_size, header.color_intrinsics, header.color_extrinsics),
        'depth': (header.depth_size, header.depth_intrinsics, header.depth_extrinsics),
    }
    record: dict[str, object] = {}
    for kind, (size, intrinsics, extrinsics) in cameras.items():
        if not (np.isfinite(intrinsics).all() and intrinsics[0, 0] > 0 and intrinsics[1, 1] > 0):
            raise ValueError(
                f'{reader.path}: {kind} intrinsics: expected finite numbers and positive focal lengths, '
                f'found {intrinsics.tolist()}'
            )
        if not np.array_equal(extrinsics, np.eye(4)):
            report.warnings.append(f'{reader.path}: {kind} extrinsics are not the identity; they are ignored')
        record[f'{kind}_size'] = list(size)
        record[f'{kind}_intrinsics'] = intrinsics[:3, :3].tolist()
    return record


def _check_pose(reader: SensReader, frame: SensFrame) -> None:
    if not is_rigid(frame.camera_to_world):
        raise ValueError(
            f'{reader.path}: frame {frame.index}: pose: expected a rotation and a translation, '
            f'found {frame.camera_to_world.tolist()}'
        )


def _depth_png(reader: SensReader, frame: SensFrame) -> bytes:
    """The depth image as PNG, after the colour image has been checked.

    Raises:
        ValueError: if one of them is damaged; the message names the file and the frame.
    """
    try:
        check_jpeg(frame.color, reader.header.color_size)
    except ValueError as error:
        raise ValueError(f'{reader.path}: frame {frame.index}: color image: {error}') from error
    return encode_png(reader.decode_depth(frame), noisy=True)


def _rasterised_map(rasteriser: MeshRasteriser, reader: SensReader, frame: SensFrame) -> bytes:
    """PNG of the instances that the colour camera of a frame sees on the mesh."""
    header = reader.header
    pose = frame.camera_to_world.astype(np.float64)
    _, instance = rasteriser.pinhole_view(header.color_intrinsics[:3, :3].astype(np.float64), header.color_size, pose)
    return encode_png(instance.astype(np.uint16))


class _InstanceMaps:
    """Instance maps of a scan, as far as they are there."""

    def __init__(self, scan: Scan, size: tuple[int, int], report: ConversionReport) -> None:
        self._report = report
        self._found: set[int] = set()
        self._path = scan.path('_2d-instance-filt.zip')
        with ExitStack() as stack:
            self._instances = self._open(scan, 'instance-filt', size, stack)
            self._labels = self._open(scan, 'label-filt', size, stack)
            self._stack = stack.pop_all()
        if scan.annotated and self._instances is None:
            report.warnings.append(f'{self._path}: not there; the release has no instance maps of this scene')

    def __enter__(self) -> _InstanceMaps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self, scan: Scan, kind: str, size: tuple[int, int], stack: ExitStack) -> AnnotationArchive | None:
        path = scan.path(f'_2d-{kind}.zip')
        if not scan.annotated or not path.is_file():
            return None
        archive = stack.enter_context(AnnotationArchive(path, folder=kind, size=size))
        unsafe = archive.unsafe_names()
        if unsafe:
            self._report.warnings.append(f'{path}: ignored members outside the archive, e.g. {unsafe[0]!r}')
        if archive.is_of_other_layout():
            self._report.warnings.append(f'{path}: expected images `{kind}/<frame>.png`, found none; it is not used')
        return archive

    def read(self, frame: int) -> bytes | None:
        """PNG of one frame, value = instance id; the bytes of the archive, which holds just that. None if missing.

        Raises:
            ValueError: if the frame's annotation is damaged.
        """
        # Labels follow from the instances and are not stored. But where they are of another size than the colour
        # image, the frame has been annotated on another image.
        if self._labels is not None and self._labels.has(frame):
            self._labels.check_size(frame)
        if self._instances is None or not self._instances.has(frame):
            return None
        data, image = self._instances.read(frame)
        self._found.update(np.flatnonzero(np.bincount(image.ravel())).tolist())
        return data

    def warn_of_unknown(self, instance_ids: Collection[int]) -> None:
        unknown = sorted(self._found - {0, *instance_ids})
        if unknown:
            self._report.warnings.append(f'{self._path}: the ids {unknown} belong to no object of the scan')
