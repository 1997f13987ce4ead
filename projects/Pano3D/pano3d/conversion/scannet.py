"""ScanNet v2 scans to stored scenes. One stored scene serves ScanNet20 and ScanNet200.

Missing annotation of a frame is normal and reported. Damage is never passed on: a frame whose images cannot be decoded
is left out with a warning, and a scan with an unusable file is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .annotation import (
    InstanceRecord,
    LabelIds,
    instance_records,
    read_aggregation,
    read_label_table,
    read_segments,
    vertex_instances,
)
from .batch import ConversionSummary, SceneResult
from .mesh import Mesh, read_mesh
from .scannet_frames import store_frames
from .scannet_scan import Scan, read_axis_alignment, read_splits, scans_of
from .scannet_splits import official_splits
from .scene_store import ConversionReport, finished_scene, new_scene, write_scene_record
from .share import Share
from .sharing import convert_scenes

if TYPE_CHECKING:
    from .rasterise import MeshRasteriser

LABEL_TABLE = 'scannetv2-labels.combined.tsv'


@dataclass(frozen=True)
class ScanNetSettings:
    """What a stored scene depends on beside its raw files.

    Args:
        frame_skip: every n-th frame is taken.
        rasterise_missing: whether instance maps that the release lacks are made from the mesh.
    """

    frame_skip: int
    rasterise_missing: bool


def convert_scannet(
    raw: str | Path,
    out: str | Path,
    *,
    frame_skip: int = 20,
    num_workers: int = 1,
    splits: str | Path | None = None,
    rasterise_missing: bool = False,
    share: Share | None = None,
    show_progress: bool = False,
) -> ConversionSummary:
    """Convert the scans of a ScanNet v2 release and write the lists of finished scenes.

    May be interrupted and run again: finished scenes are kept if they were made from the same files with the same
    settings, or if their raw scan has been removed. A scan that cannot be converted does not stop the others. Several
    processes, on several machines too, may run it for the same `out` at the same time: each scan is converted by one.

    Args:
        raw: release folder with `scans`, `scans_test` and the label table.
        out: folder of the stored scenes (docs/scene_format.md).
        frame_skip: take every n-th frame, starting with frame 0; a frame without pose is not replaced by another.
        num_workers: processes; 1 means this one.
        splits: folder with `scannetv2_{train,val,test}.txt`, not all of which need be there; None for
            `raw/Tasks/Benchmark`, or without such a folder for the official splits of the scans that are there.
        rasterise_missing: whether instance maps that the release lacks are made from the mesh (needs the extra `data`);
            the report of a scene lists them. Otherwise these images have none.
        share: the rank of this process among several of the same call, which tells what to start with.
        show_progress: draw a progress bar on stderr.

    Returns:
        What became of all scans, whichever process has converted them.

    Raises:
        ValueError: if an argument, the label table or the split lists are unusable; nothing has been written then.
    """
    for name, value in (('frame_skip', frame_skip), ('num_workers', num_workers)):
        if value < 1:
            raise ValueError(f'`{name}` must be at least 1, got {value}')
    raw, out = Path(raw), Path(out)
    if not (raw / LABEL_TABLE).is_file():
        raise ValueError(f'no label table {raw / LABEL_TABLE}: `raw` must be the folder of a ScanNet v2 release')
    table = read_label_table(raw / LABEL_TABLE)
    scenes_of = _splits(raw, splits)
    settings = ScanNetSettings(frame_skip, rasterise_missing)
    return convert_scenes(
        out,
        scenes_of,
        partial(convert_scan, raw=raw, out=out, table=table, settings=settings),
        partial(find_stored, raw=raw, out=out, settings=settings),
        share=share or Share(),
        num_workers=num_workers,
        show_progress=show_progress,
    )


def _splits(raw: Path, splits: str | Path | None) -> dict[str, list[str]]:
    folder = raw / 'Tasks' / 'Benchmark' if splits is None else Path(splits)
    if splits is not None or folder.is_dir():
        return read_splits(folder)
    scene_ids = scans_of(raw)
    if not scene_ids:
        raise ValueError(f'{raw}: expected scans in `scans` or `scans_test`, found none')
    return official_splits(scene_ids)


def find_stored(scene_id: str, *, raw: Path, out: Path, settings: ScanNetSettings) -> SceneResult | None:
    """The result of a scan that is stored with these settings and from the files that are there; None if none is."""
    stored = finished_scene(out, scene_id)  # refuses ids that are no folder names, before they become a path
    scan = Scan.find(raw, scene_id)
    same = stored and {'rasterise_missing': False, **stored}.items() >= asdict(settings).items()
    if not (stored and same and (scan is None or stored['source_files'] == scan.sizes())):
        return None
    return SceneResult(scene_id, num_frames=len(stored['frames']), reused=True)


def convert_scan(
    scene_id: str, *, raw: Path, out: Path, table: Mapping[str, LabelIds], settings: ScanNetSettings
) -> SceneResult:
    """Convert one scan, unless it is finished.

    Raises:
        ValueError, OSError: if a file is missing or unusable; nothing of the scene has been stored then.
    """
    stored, scan = find_stored(scene_id, raw=raw, out=out, settings=settings), Scan.find(raw, scene_id)
    if stored is not None:
        return stored
    if scan is None:
        raise ValueError(f'no such scan in {raw / "scans"} or {raw / "scans_test"}; download it')
    report = ConversionReport()
    with new_scene(out, scene_id) as folder:
        axis_alignment = read_axis_alignment(scan.path('.txt'))
        mesh, instance, instances = _read_objects(scan, table=table, report=report)
        np.savez(folder / 'mesh.npz', vertices=mesh.vertices, colors=mesh.colors, faces=mesh.faces, instance=instance)
        frames, depth_scale = store_frames(
            scan,
            folder,
            frame_skip=settings.frame_skip,
            instance_ids=[record['id'] for record in instances],
            rasteriser=_rasteriser(mesh, instance) if settings.rasterise_missing and scan.annotated else None,
            report=report,
        )
        report.warnings = [warning.replace(f'{scan.folder}{os.sep}', '') for warning in report.warnings]
        record = {
            'scene_id': scene_id,
            'source': 'scannet_v2',
            'source_files': scan.sizes(),
            **asdict(settings),
            'depth_scale': depth_scale,
            'axis_alignment': axis_alignment,
            'frames': frames,
            'instances': instances,
            'mesh': 'mesh.npz',
            'report': asdict(report),
        }
        write_scene_record(folder, record)
    return SceneResult(scene_id, num_frames=len(frames), warnings=tuple(report.warnings))


def _read_objects(
    scan: Scan, *, table: Mapping[str, LabelIds], report: ConversionReport
) -> tuple[Mesh, np.ndarray, list[InstanceRecord]]:
    """The mesh, the instance of every vertex (N,) int32 and the instance records; no instances without annotation."""
    mesh = read_mesh(scan.path('_vh_clean_2.ply'))
    if not scan.annotated:
        return mesh, np.zeros(len(mesh.vertices), np.int32), []
    path = scan.path('.aggregation.json')
    groups = read_aggregation(path)
    segments = read_segments(scan.path('_vh_clean_2.0.010000.segs.json'), len(mesh.vertices))
    instance, vertex_warnings = vertex_instances(segments, groups)
    records, record_warnings = instance_records(groups, table)
    report.warnings += [f'{path}: {warning}' for warning in vertex_warnings + record_warnings]
    return mesh, instance, records


def _rasteriser(mesh: Mesh, instance: np.ndarray) -> MeshRasteriser:
    from .rasterise import MeshRasteriser  # Embree comes with the extra `data`; the rest works without

    return MeshRasteriser(mesh.vertices, mesh.faces, instance)
