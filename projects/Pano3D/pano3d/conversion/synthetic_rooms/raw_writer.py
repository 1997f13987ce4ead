"""Writes rooms and what belongs to them as the files of a ScanNet v2 download."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from pano3d.conversion.sens import SensHeader, SensWriter

from .categories import RAW_CATEGORIES
from .rendering import DEPTH_UNITS_PER_METRE, Recording, View
from .room import Room

FRAME_MICROSECONDS = 33_333
MAX_OBJECTS = 255
TSV_COLUMNS = (
    'id',
    'raw_category',
    'category',
    'count',
    'nyu40id',
    'eigen13id',
    'nyuClass',
    'nyu40class',
    'eigen13class',
    'ModelNet40',
    'ModelNet10',
    'ShapeNetCore55',
    'synsetoffset',
    'wnsynsetid',
    'wnsynsetkey',
    'mpcat40',
    'mpcat40index',
)


def write_scene(folder: Path, scene_id: str, recording: Recording) -> None:
    """Write all files of one scan into an existing folder.

    Raises:
        ValueError: if the room has more objects than an 8-bit instance image can tell apart.
    """
    room = recording.room
    if len(room.categories) > MAX_OBJECTS:
        raise ValueError(f'{scene_id}: {len(room.categories)} objects; instance images hold at most {MAX_OBJECTS}')
    _write_views(folder, scene_id, recording)
    _write_meta(folder / f'{scene_id}.txt', recording)
    _write_meshes(folder, scene_id, recording)
    _write_annotation(folder, scene_id, room)


def write_category_table(path: Path) -> None:
    """Write `scannetv2-labels.combined.tsv` with the rows of the categories that made-up rooms use."""
    lines = ['\t'.join(TSV_COLUMNS)]
    for category in RAW_CATEGORIES.values():
        known = {
            'id': str(category.scannet_id),
            'raw_category': category.name,
            'category': category.name,
            'count': '1',
            'nyu40id': str(category.nyu40_id),
            'nyu40class': category.nyu40_class,
        }
        lines.append('\t'.join(known.get(column, '') for column in TSV_COLUMNS))
    path.write_text('\n'.join(lines) + '\n')


def _write_views(folder: Path, scene_id: str, recording: Recording) -> None:
    options = recording.options
    header = SensHeader(
        color_size=options.color_size,
        depth_size=options.depth_size,
        color_intrinsics=_four_by_four(recording.color_intrinsics),
        depth_intrinsics=_four_by_four(recording.depth_intrinsics),
        depth_shift=float(DEPTH_UNITS_PER_METRE),
        sensor_name='synthetic',
    )
    categories = recording.room.categories
    # The last entry serves objectId -1: nothing.
    label_of_object = np.array([RAW_CATEGORIES[name].scannet_id for name in categories] + [0], np.uint16)
    labels, instances = [], []
    with SensWriter(folder / f'{scene_id}.sens', header) as stream:
        for number, view in enumerate(recording.views()):
            _add_frame(stream, number, view)
            labels.append(_encode('.png', label_of_object[view.objects]))
            instances.append(_encode('.png', (view.objects + 1).astype(np.uint8)))
    _write_images(folder / f'{scene_id}_2d-label-filt.zip', 'label-filt', labels)
    _write_images(folder / f'{scene_id}_2d-instance-filt.zip', 'instance-filt', instances)


def _add_frame(stream: SensWriter, number: int, view: View) -> None:
    time = number * FRAME_MICROSECONDS
    stream.add_frame(
        color=_encode('.jpg', view.color[..., ::-1]),
        depth=view.depth,
        camera_to_world=view.camera_to_world,
        color_timestamp=time,
        depth_timestamp=time,
    )


def _encode(extension: str, image: np.ndarray) -> bytes:
    return cv2.imencode(extension, image)[1].tobytes()


def _write_images(path: Path, inner_folder: str, images: Sequence[bytes]) -> None:
    with zipfile.ZipFile(path, 'w') as archive:
        for number, data in enumerate(images):
            # A bare ZipInfo has a fixed date, so that equal images give equal files.
            archive.writestr(zipfile.ZipInfo(f'{inner_folder}/{number}.png'), data)


def _four_by_four(intrinsics: np.ndarray) -> np.ndarray:
    matrix = np.eye(4, dtype=np.float32)
    matrix[:3, :3] = intrinsics
    return matrix


def _write_meta(path: Path, recording: Recording) -> None:
    values: dict[str, object] = {
        'axisAlignment': _numbers(recording.room.axis_alignment),
        'colorToDepthExtrinsics': _numbers(np.eye(4)),
        'numColorFrames': recording.options.num_frames,
        'numDepthFrames': recording.options.num_frames,
        'numIMUmeasurements': 0,
        'sceneType': recording.room.kind.name,
    }
    for camera in ('color', 'depth'):
        width, height = getattr(recording.options, f'{camera}_size')
        intrinsics = getattr(recording, f'{camera}_intrinsics')
        values[f'{camera}Width'], values[f'{camera}Height'] = width, height
        values[f'fx_{camera}'], values[f'fy_{camera}'] = _numbers(intrinsics[0, 0]), _numbers(intrinsics[1, 1])
        values[f'mx_{camera}'], values[f'my_{camera}'] = _numbers(intrinsics[0, 2]), _numbers(intrinsics[1, 2])
    path.write_text(''.join(f'{key} = {values[key]}\n' for key in sorted(values)))


def _numbers(values: np.ndarray) -> str:
    return ' '.join(f'{value:.6f}' for value in np.ravel(values))


def _write_meshes(folder: Path, scene_id: str, recording: Recording) -> None:
    mesh = recording.room.mesh
    columns = [('x', '<f4'), ('y', '<f4'), ('z', '<f4')]
    columns += [(channel, 'u1') for channel in ('red', 'green', 'blue', 'alpha')]
    vertices = np.zeros(len(mesh.vertices), [*columns, ('label', '<u2')])
    vertices['x'], vertices['y'], vertices['z'] = mesh.vertices.T
    vertices['red'], vertices['green'], vertices['blue'] = recording.vertex_colors.T
    vertices['alpha'] = 255
    nyu40 = np.array([RAW_CATEGORIES[name].nyu40_id for name in recording.room.categories])
    vertices['label'] = nyu40[mesh.object_of_vertex]
    _write_ply(folder / f'{scene_id}_vh_clean_2.labels.ply', vertices, mesh.faces)
    unlabelled = vertices[[name for name, _ in columns]].astype(columns)
    _write_ply(folder / f'{scene_id}_vh_clean_2.ply', unlabelled, mesh.faces)


def _write_ply(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    """Binary PLY in one write per element; PLY libraries write list properties face by face."""
    names = {'<f4': 'float', '|u1': 'uchar', '<u2': 'ushort'}
    properties = [f'property {names[vertices.dtype[name].str]} {name}' for name in vertices.dtype.names or ()]
    header = [
        'ply',
        'format binary_little_endian 1.0',
        f'element vertex {len(vertices)}',
        *properties,
        f'element face {len(faces)}',
        'property list uchar int vertex_indices',
        'end_header',
    ]
    table = np.zeros(len(faces), [('count', 'u1'), ('corners', '<i4', (3,))])
    table['count'] = 3
    table['corners'] = faces
    with open(path, 'wb') as file:
        file.write(('\n'.join(header) + '\n').encode())
        file.write(vertices.tobytes())
        file.write(table.tobytes())


def _write_annotation(folder: Path, scene_id: str, room: Room) -> None:
    mesh = room.mesh
    segments_file = f'{scene_id}_vh_clean_2.0.010000.segs.json'
    _write_json(
        folder / segments_file,
        {
            'params': {'kThresh': '0.0001', 'segMinVerts': '20'},
            'sceneId': scene_id,
            'segIndices': mesh.segment_of_vertex.tolist(),
        },
    )
    # A segment is named after its first vertex.
    segments = np.unique(mesh.segment_of_vertex)
    owner = mesh.object_of_vertex[segments]
    groups = [
        {'id': number, 'objectId': number, 'segments': segments[owner == number].tolist(), 'label': name}
        for number, name in enumerate(room.categories)
    ]
    _write_json(
        folder / f'{scene_id}.aggregation.json',
        {
            'sceneId': f'scannet.{scene_id}',
            'appId': 'Aggregator.v2',
            'segGroups': groups,
            'segmentsFile': f'scannet.{segments_file}',
        },
    )


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, separators=(',', ':')))


def write_splits(folder: Path, splits: dict[str, Iterable[str]]) -> None:
    """Write `scannetv2_<split>.txt`, one scene name per line."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, names in splits.items():
        (folder / f'scannetv2_{split}.txt').write_text(''.join(f'{name}\n' for name in names))
