"""ScanNet++ v2 scans to stored scenes, one of the two cameras at a time.

Images lose their lens distortion, so that every stored frame is a pinhole's; depth and instances are seen on the mesh
by that same pinhole, or for the iPhone measured by its LiDAR.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from .annotation import read_aggregation, read_segments
from .batch import ConversionSummary, SceneResult
from .mesh import Mesh, read_mesh
from .rasterise import MeshRasteriser
from .scannetpp_frames import DEPTH_SCALE, DepthSource, PPFrameWriter
from .scannetpp_labels import (
    BenchmarkClasses,
    PPInstanceRecord,
    benchmark_groups,
    instance_records,
    last_group,
    read_excluded_vertices,
    smallest_group,
    vertices_of_groups,
)
from .scannetpp_scan import CameraName, PPScan, read_splits
from .scene_store import ConversionReport, finished_scene, new_scene, write_scene_record
from .share import Share
from .sharing import convert_scenes

MAX_GROUPS = 65535  # instance ids must fit into uint16
LabelRule = Literal['2d', '3d']


@dataclass(frozen=True)
class PPSettings:
    """What a stored scene depends on beside its raw files.

    Args:
        camera: 'dslr' or 'iphone'.
        frame_skip: every n-th registered image is taken.
        depth: 'mesh' or, for the iPhone, 'sensor'.
        image_labels: which official rule labels the vertices that the images show: '2d' (the last group of the file
            that has a vertex) or '3d' (of up to three groups with benchmark classes the smallest).
    """

    camera: CameraName
    frame_skip: int
    depth: DepthSource
    image_labels: LabelRule


@dataclass(frozen=True, eq=False)
class _Objects:
    """Annotation of a mesh: the objects, and the instance of each vertex (N,) int32 under both rules, 0 = nothing."""

    records: list[PPInstanceRecord]
    rule_3d: np.ndarray
    rule_2d: np.ndarray


def convert_scannetpp(
    raw: str | Path,
    out: str | Path,
    *,
    camera: CameraName = 'dslr',
    frame_skip: int = 1,
    depth: DepthSource | None = None,
    image_labels: LabelRule = '2d',
    num_workers: int = 1,
    splits: str | Path | None = None,
    share: Share | None = None,
    show_progress: bool = False,
) -> ConversionSummary:
    """Convert the scans of a ScanNet++ v2 release and write the lists of finished scenes and the label space.

    May be interrupted and run again and by several processes at a time, as `convert_scannet`. Use one `out` per camera.

    Args:
        raw: release folder with `data`, `splits` and `metadata/semantic_benchmark`.
        out: folder of the stored scenes (docs/scene_format.md).
        camera: 'dslr' or 'iphone'.
        frame_skip: take every n-th image that COLMAP has registered; bad ones are not replaced by others.
        depth: 'mesh', or 'sensor' for the LiDAR of the iPhone; None takes the sensor where there is one.
        image_labels: '2d' or '3d', the official rule for vertices of several objects in the instance maps. The mesh is
            always stored under the rule for 3D.
        num_workers: processes; 1 means this one.
        splits: folder with the split lists; None for `raw/splits`.
        share: the rank of this process among several of the same call, which tells what to start with.
        show_progress: draw a progress bar on stderr.

    Returns:
        What became of all scans, whichever process has converted them.

    Raises:
        ValueError: if an argument, the metadata or the split lists are unusable; nothing has been written then.
    """
    raw, out = Path(raw), Path(out)
    settings = PPSettings(camera, frame_skip, depth or ('sensor' if camera == 'iphone' else 'mesh'), image_labels)
    _check(settings, num_workers)
    classes = BenchmarkClasses.read(raw / 'metadata' / 'semantic_benchmark')
    scenes_of = read_splits(raw / 'splits' if splits is None else Path(splits))
    annotated = {scene_id for split, scenes in scenes_of.items() if split != 'test' for scene_id in scenes}
    return convert_scenes(
        out,
        scenes_of,
        partial(convert_scan, raw=raw, out=out, classes=classes, annotated=annotated, settings=settings),
        partial(find_stored, raw=raw, out=out, settings=settings),
        share=share or Share(),
        num_workers=num_workers,
        show_progress=show_progress,
        more={'label_space.json': classes.label_space()},
    )


def find_stored(scene_id: str, *, raw: Path, out: Path, settings: PPSettings) -> SceneResult | None:
    """The result of a scan that is stored with these settings and from the files that are there; None if none is."""
    stored = finished_scene(out, scene_id)  # refuses ids that are no folder names, before they become a path
    scan = PPScan(raw / 'data' / scene_id, settings.camera)
    same = stored is not None and stored.items() >= asdict(settings).items()
    if not (stored and same and (not scan.folder.is_dir() or stored['source_files'] == scan.sizes())):
        return None
    return SceneResult(scene_id, num_frames=len(stored['frames']), reused=True)


def convert_scan(
    scene_id: str, *, raw: Path, out: Path, classes: BenchmarkClasses, annotated: set[str], settings: PPSettings
) -> SceneResult:
    """Convert one scan, unless it is finished.

    Raises:
        ValueError, OSError: if a file is missing or unusable; nothing of the scene has been stored then.
    """
    stored = find_stored(scene_id, raw=raw, out=out, settings=settings)
    if stored is not None:
        return stored
    scan = PPScan(raw / 'data' / scene_id, settings.camera)
    if not scan.folder.is_dir():
        raise ValueError(f'no such scan in {raw / "data"}; download it')
    report = ConversionReport()
    with new_scene(out, scene_id) as folder:
        mesh = read_mesh(scan.path('scans/mesh_aligned_0.05.ply'))
        objects = _read_objects(scan, mesh, classes, report) if scene_id in annotated else _no_objects(mesh)
        _store_mesh(scan, folder, mesh, objects)
        labels = objects.rule_2d if settings.image_labels == '2d' else objects.rule_3d
        writer = PPFrameWriter(
            scan,
            folder,
            rasteriser=MeshRasteriser(mesh.vertices, mesh.faces, labels),
            annotated=scene_id in annotated,
            depth=settings.depth,
            report=report,
        )
        frames = writer.store(settings.frame_skip)
        report.warnings = [warning.replace(f'{scan.folder}{os.sep}', '') for warning in report.warnings]
        record = {
            'scene_id': scene_id,
            'source': 'scannetpp_v2',
            'source_files': scan.sizes(),
            **asdict(settings),
            'depth_scale': DEPTH_SCALE,
            'axis_alignment': np.eye(4).tolist(),
            'frames': frames,
            'instances': objects.records,
            'mesh': 'mesh.npz',
            'report': asdict(report),
        }
        write_scene_record(folder, record)
    return SceneResult(scene_id, num_frames=len(frames), warnings=tuple(report.warnings))


def _check(settings: PPSettings, num_workers: int) -> None:
    for name, value in (('frame_skip', settings.frame_skip), ('num_workers', num_workers)):
        if value < 1:
            raise ValueError(f'`{name}` must be at least 1, got {value}')
    if settings.camera not in ('dslr', 'iphone'):
        raise ValueError(f"`camera` must be 'dslr' or 'iphone', got {settings.camera!r}")
    if settings.image_labels not in ('2d', '3d'):
        raise ValueError(f"`image_labels` must be '2d' or '3d', got {settings.image_labels!r}")
    possible = ('mesh', 'sensor') if settings.camera == 'iphone' else ('mesh',)
    if settings.depth not in possible:
        raise ValueError(f'`depth` of the {settings.camera} must be one of {possible}, got {settings.depth!r}')


def _read_objects(scan: PPScan, mesh: Mesh, classes: BenchmarkClasses, report: ConversionReport) -> _Objects:
    path, num_vertices = scan.path('scans/segments_anno.json'), len(mesh.vertices)
    groups = read_aggregation(path)
    if len(groups) > MAX_GROUPS:
        raise ValueError(f'{path}: expected at most {MAX_GROUPS} segGroups, found {len(groups)}')
    segments = read_segments(scan.path('scans/segments.json'), num_vertices)
    try:
        members, warnings = vertices_of_groups(segments, groups)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    report.warnings += [f'{path}: {warning}' for warning in warnings]
    records = instance_records(groups, classes)
    used = [record['scannetpp_id'] is not None for record in records]
    return _Objects(
        records,
        rule_3d=smallest_group(benchmark_groups(members, used, num_vertices), len(groups)) + 1,
        rule_2d=last_group(members, num_vertices) + 1,
    )


def _no_objects(mesh: Mesh) -> _Objects:
    nothing = np.zeros(len(mesh.vertices), np.int32)
    return _Objects([], nothing, nothing)


def _store_mesh(scan: PPScan, folder: Path, mesh: Mesh, objects: _Objects) -> None:
    path = scan.path('scans/mesh_aligned_0.05_mask.txt')
    excluded = np.zeros(len(mesh.vertices), bool)
    if path.is_file():
        excluded = read_excluded_vertices(path, len(mesh.vertices))
    np.savez(
        folder / 'mesh.npz',
        vertices=mesh.vertices,
        colors=mesh.colors,
        faces=mesh.faces,
        instance=objects.rule_3d,
        excluded=excluded,
    )
