"""Frames per second of the conversion of `.sens` recordings: python tools/benchmarks/conversion.py."""

from __future__ import annotations

import argparse
import io
import json
import platform
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from PIL import Image
from PIL import __version__ as pillow_version

from pano3d.conversion import SensHeader, SensWriter
from pano3d.conversion.scannet_frames import store_frames
from pano3d.conversion.scannet_scan import Scan
from pano3d.conversion.scene_store import ConversionReport

COLOR_SIZE, DEPTH_SIZE = (1296, 968), (640, 480)
SCENE = 'scene0000_00'
DISTINCT_FRAMES = 8
COLOR_TOLERANCE = 4.0  # mean difference in grey levels that encoding a JPEG again may make

Pose = list[list[float]]


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Compare the frames per second and core of the conversion of a synthetic .sens recording '
        f'(colour {COLOR_SIZE[0]}x{COLOR_SIZE[1]} JPEG, depth {DEPTH_SIZE[0]}x{DEPTH_SIZE[1]}) with those of a plain '
        'reader, which unpacks with struct and zlib and decodes and encodes every image with Pillow at its default '
        'settings. Both use one core in turns and write the same depth, poses and pictures.',
        epilog='Exit status: 0 if the outputs agree, 1 if not, 2 on bad arguments.',
    )
    parser.add_argument('--frames', type=int, default=64, help='of the recording (default: 64)')
    parser.add_argument('--frame-skip', type=int, default=1, metavar='N', help='take every N-th frame (default: 1)')
    parser.add_argument(
        '--plain-level',
        type=int,
        default=6,
        choices=range(10),
        help="of the plain reader's PNG (default: Pillow's own, 6)",
    )
    parser.add_argument('--repeats', type=int, default=3, help='timed passes of each (default: 3)')
    parser.add_argument('--seed', type=int, default=0, help='of the recording (default: 0)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write all numbers to this file')
    args = parser.parse_args(arguments)
    if min(args.frames, args.frame_skip, args.repeats) < 1:
        parser.error('--frames, --frame-skip and --repeats must be at least 1')
    return args


def write_recording(path: Path, num_frames: int, *, seed: int) -> None:
    """Smooth surfaces with steps, the noise of a depth sensor that grows with the distance, and holes."""
    random = np.random.default_rng(seed)
    focal = np.diag([577.9, 577.9, 1, 1]).astype(np.float32)
    focal[:2, 2] = 319.5, 239.5
    color_focal = focal.copy()
    color_focal[:2] *= COLOR_SIZE[0] / DEPTH_SIZE[0]
    header = SensHeader(
        color_size=COLOR_SIZE, depth_size=DEPTH_SIZE, color_intrinsics=color_focal, depth_intrinsics=focal
    )
    pictures = [(_color(random), _depth(random)) for _ in range(min(DISTINCT_FRAMES, num_frames))]
    with SensWriter(path, header) as writer:
        for frame in range(num_frames):
            color, depth = pictures[frame % len(pictures)]
            pose = np.eye(4, dtype=np.float32)
            pose[:3, 3] = random.normal(size=3)
            writer.add_frame(color=color, depth=depth, camera_to_world=pose)


def _color(random: np.random.Generator) -> bytes:
    coarse = random.integers(0, 255, (60, 80, 3)).astype(np.float32)
    image = cv2.resize(coarse, COLOR_SIZE, interpolation=cv2.INTER_CUBIC)
    image += 4 * random.standard_normal(image.shape, np.float32)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(buffer, 'JPEG', quality=85)
    return buffer.getvalue()


def _depth(random: np.random.Generator) -> np.ndarray:
    surfaces = cv2.resize(random.uniform(800, 5000, (6, 8)), DEPTH_SIZE, interpolation=cv2.INTER_LINEAR)
    surfaces += 400 * (cv2.resize(random.random((5, 7)), DEPTH_SIZE, interpolation=cv2.INTER_NEAREST) > 0.5)
    noisy = surfaces + 7e-7 * surfaces**2 * random.normal(size=surfaces.shape)
    holes = cv2.resize(random.random((24, 32)), DEPTH_SIZE) > 0.8
    return np.where(holes, 0, np.rint(noisy)).astype(np.uint16)


def convert_plainly(recording: Path, out: Path, frame_skip: int, *, level: int = 6) -> list[Pose]:
    """Every image of every n-th frame is decoded and encoded again. Reads a good file only: nothing is checked."""
    for name in ('color', 'depth'):
        (out / name).mkdir()
    poses = []
    with open(recording, 'rb') as file:
        _, name_length = struct.unpack('<IQ', file.read(12))
        file.read(name_length + 4 * 64 + 8)
        _, _, width, height, _, num_frames = struct.unpack('<4IfQ', file.read(28))
        for frame in range(num_frames):
            pose = struct.unpack('<16f', file.read(64))
            _, _, color_bytes, depth_bytes = struct.unpack('<4Q', file.read(32))
            color, depth = file.read(color_bytes), file.read(depth_bytes)
            if frame % frame_skip:
                continue
            picture = np.array(Image.open(io.BytesIO(color)))
            Image.fromarray(picture).save(out / f'color/{frame:06d}.jpg')
            values = np.frombuffer(zlib.decompress(depth), '<u2').reshape(height, width)
            Image.fromarray(values).save(out / f'depth/{frame:06d}.png', compress_level=level)
            poses.append([list(pose[row : row + 4]) for row in range(0, 16, 4)])
    return poses


def convert(recording: Path, out: Path, frame_skip: int) -> list[Pose]:
    """As `tools/prepare_scannet.py` does it, with all its checks."""
    frames, _ = store_frames(
        Scan(recording.parent),
        out,
        frame_skip=frame_skip,
        instance_ids=(),
        rasteriser=None,
        report=ConversionReport(),
    )
    return [frame['camera_to_world'] for frame in frames]


Way = Callable[[Path, Path, int], list[Pose]]


def measure(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """All numbers; files are written to `folder`."""
    recording = folder / 'scans_test' / SCENE / f'{SCENE}.sens'
    recording.parent.mkdir(parents=True)
    write_recording(recording, args.frames, seed=args.seed)
    ways: dict[str, Way] = {'ours': convert, 'plain': partial(convert_plainly, level=args.plain_level)}

    def run(way: str) -> tuple[tuple[float, float], list[Pose]]:
        return _timed(ways[way], recording, folder / way, args.frame_skip)

    poses = {way: run(way)[1] for way in ways}  # and warm up
    differences = compare(folder / 'ours', folder / 'plain')
    differences['pose'] = float(np.abs(np.array(poses['ours']) - np.array(poses['plain'])).max())
    sizes = {way: sum(path.stat().st_size for path in (folder / way).rglob('*.*')) for way in ways}
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for repeat in range(args.repeats):
        for way in list(ways) if repeat % 2 else list(reversed(ways)):
            times[way].append(run(way)[0])
    num_frames = len(poses['ours'])
    rate = {way: num_frames / median(cpu for _, cpu in values) for way, values in times.items()}
    return {
        'frames': args.frames,
        'frame_skip': args.frame_skip,
        'plain_level': args.plain_level,
        'recording_bytes': recording.stat().st_size,
        'written_bytes': sizes,
        'wall_and_cpu_seconds': times,
        'frames_per_cpu_second': rate,
        'frames_per_wall_second': {
            way: num_frames / median(wall for wall, _ in values) for way, values in times.items()
        },
        'ratio': rate['ours'] / rate['plain'],
        'differences': differences,
        'agree': differences['depth'] == 0 and differences['pose'] == 0 and differences['color'] < COLOR_TOLERANCE,
    }


def _timed(way: Way, recording: Path, out: Path, frame_skip: int) -> tuple[tuple[float, float], list[Pose]]:
    """(wall seconds, seconds of the CPU) and what the conversion returns; its files stay in `out`."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    wall, cpu = time.perf_counter(), time.process_time()
    poses = way(recording, out, frame_skip)
    return (time.perf_counter() - wall, time.process_time() - cpu), poses


def compare(ours: Path, plain: Path) -> dict[str, float]:
    """Largest difference of depth and largest mean difference of a picture.

    Raises:
        ValueError: if there are other files.
    """
    names = sorted(str(path.relative_to(plain)) for path in plain.rglob('*.*'))
    if sorted(str(path.relative_to(ours)) for path in ours.rglob('*.*')) != names:
        raise ValueError(f'{ours} and {plain} have different files')
    largest = {'depth': 0.0, 'color': 0.0}
    for name in names:
        difference = np.abs(np.subtract(*(np.array(Image.open(root / name), np.int32) for root in (ours, plain))))
        kind = name.split('/')[0]
        largest[kind] = max(largest[kind], float(difference.max() if kind == 'depth' else difference.mean()))
    return largest


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args, Path(folder))
    for way in ('ours', 'plain'):
        print(
            f'{way:5}: {result["frames_per_cpu_second"][way]:7.1f} frames/s per core, '
            f'{result["frames_per_wall_second"][way]:7.1f} by the clock, '
            f'{result["written_bytes"][way] / 1e6:6.1f} MB written'
        )
    print(f'ratio: {result["ratio"]:.1f}')
    machine = {'machine': platform.machine(), 'opencv': cv2.__version__, 'pillow': pillow_version}
    print(
        ', '.join(f'{key} {value}' for key, value in machine.items())
        + f'; PNG level {args.plain_level}; every {args.frame_skip}. of {args.frames} frames, median of {args.repeats}'
    )
    if args.json is not None:
        args.json.write_text(json.dumps({'machine': machine, 'result': result}, indent=1) + '\n')
    if not result['agree']:
        print(f'error: the outputs differ: {result["differences"]}', file=sys.stderr)
    return 0 if result['agree'] else 1


if __name__ == '__main__':
    sys.exit(main())
