"""Pictures of a scene: RGB, depth, semantics and instances of each view side by side, with a legend."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pano3d.structures import LabelSpace, PanopticMap, Reconstruction, SceneSample

from .palette import VOID_COLOR, category_colors, instance_colors

COLUMNS = ('RGB', 'depth', 'semantics', 'instances')
MIN_CELL_WIDTH = 256
GAP = 6
LINE = 26
FONT_SIZE = 17
SWATCH = 17
BAR_WIDTH = 120
DEPTH_COLORS = 'viridis_r'  # near is bright; no black, which means unknown
BACKGROUND, INK = (255, 255, 255), (30, 30, 30)


@dataclass(frozen=True)
class _Row:
    """One source of labels and depth: the prediction or the ground truth. Arrays are (V, H, W)."""

    title: str
    depth: np.ndarray | None
    depth_range: tuple[float, float] | None
    labels: tuple[np.ndarray, np.ndarray] | None  # category, instance


def save_panels(sample: SceneSample, label_space: LabelSpace, folder: str | Path, *, max_views: int = 6) -> list[Path]:
    """Write `scene.png` (at most `max_views` views, evenly spread) and one `view_*.png` per view; return the paths.

    Columns: RGB, depth, semantics, instances. Rows: prediction, then ground truth where the sample has it. A colour
    in the column of instances is one object in all views; ground-truth objects take the colour of the prediction
    that covers them (IoU over the scene > 0.5). The depth range is shared by all views of a scene, per row.

    Raises:
        ValueError: if the sample has no images, or neither a prediction nor ground truth.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images, rows = _images(sample), _rows(sample)
    names = _view_names(sample)

    def write(path: Path, views: Sequence[int]) -> Path:
        Image.fromarray(_draw(images, rows, names, label_space, views)).save(path)
        return path

    paths = [write(folder / 'scene.png', spread_views(len(images), max_views))]
    for view, name in enumerate(names):
        safe = re.sub(r'[^\w.-]+', '_', name)
        paths.append(write(folder / f'view_{view:04d}_{safe}.png', [view]))
    return paths


def draw_panels(sample: SceneSample, label_space: LabelSpace, views: Sequence[int]) -> np.ndarray:
    """The picture (height, width, 3), uint8 RGB, of some views below each other; see `save_panels`."""
    return _draw(_images(sample), _rows(sample), _view_names(sample), label_space, views)


def spread_views(num_views: int, max_views: int) -> list[int]:
    """At most `max_views` view indices, evenly spread, first and last included."""
    if max_views < 1:
        raise ValueError(f'`max_views` must be at least 1, got {max_views}')
    return sorted({round(v) for v in np.linspace(0, num_views - 1, min(num_views, max_views)).tolist()})


def match_instances(instance: np.ndarray, reference: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Rename `instance` ids to the `reference` ids that cover them with IoU > 0.5; other ids become unused ones.

    Args:
        instance: integer ids (...), 0 = none.
        reference: integer ids (...), 0 = none.
        known: bool (...); pixels that count, for instance where the ground truth is not void.
    """
    ids, sizes = np.unique(instance[known & (instance > 0)], return_counts=True)
    reference_sizes = dict(zip(*np.unique(reference[known], return_counts=True), strict=True))
    fresh = int(reference.max(initial=0))
    renamed = np.zeros_like(instance)
    for identifier, size in zip(ids, sizes, strict=True):
        mask = instance == identifier
        others, overlaps = np.unique(reference[mask & known & (reference > 0)], return_counts=True)
        unions = [size + reference_sizes[o] - n for o, n in zip(others, overlaps, strict=True)]
        matched = [o for o, n, union in zip(others, overlaps, unions, strict=True) if 2 * n > union]
        fresh += not matched
        renamed[mask] = matched[0] if matched else fresh
    return renamed


def _images(sample: SceneSample) -> np.ndarray:
    if 'images' not in sample:
        raise ValueError('a picture needs the `images` (V, 3, H, W) of the sample, which are not set')
    return (sample.images.detach().cpu().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def _view_names(sample: SceneSample) -> list[str]:
    return list(sample.get('frame_ids', [str(view) for view in range(len(sample.images))]))


def _rows(sample: SceneSample) -> list[_Row]:
    prediction = _row('prediction', sample.get('pred_reconstruction'), sample.get('pred_panoptic'))
    truth = _row('ground truth', sample.get('gt_reconstruction'), sample.get('gt_panoptic'))
    if prediction and truth and prediction.labels and truth.labels:
        category, instance = truth.labels
        truth = replace(truth, labels=(category, match_instances(instance, prediction.labels[1], category >= 0)))
    rows = [row for row in (prediction, truth) if row]
    if not rows:
        raise ValueError('the sample has neither a prediction nor ground truth to draw: set pred_* or gt_* fields')
    return rows


def _row(title: str, reconstruction: Reconstruction | None, panoptic: PanopticMap | None) -> _Row | None:
    if reconstruction is None and panoptic is None:
        return None
    depth = depth_range = labels = None
    if reconstruction is not None:
        depth = reconstruction.depth.detach().float().cpu().numpy()
        valid = reconstruction.valid.cpu().numpy() & np.isfinite(depth)
        depth = np.where(valid, depth, np.nan)
        if valid.any():
            low, high = np.percentile(depth[valid], (2, 98)).tolist()
            depth_range = (low, max(high, low + 1e-6))
    if panoptic is not None:
        labels = panoptic.category.cpu().numpy(), panoptic.instance.cpu().numpy()
    return _Row(title, depth, depth_range, labels)


def _cells(image: np.ndarray, row: _Row, view: int) -> list[np.ndarray]:
    """The four pictures (H, W, 3) of one view; black where the row does not know the quantity."""
    blank = np.full_like(image, VOID_COLOR)
    depth = blank if row.depth is None else _depth_colors(row.depth[view], row.depth_range)
    if row.labels is None:
        return [image, depth, blank, blank]
    category, instance = (labels[view] for labels in row.labels)
    return [image, depth, category_colors(category), instance_colors(category, instance)]


def _depth_colors(depth: np.ndarray, depth_range: tuple[float, float] | None) -> np.ndarray:
    """Colours (H, W, 3) of depth (H, W), NaN where unknown (black)."""
    low, high = depth_range or (0.0, 1.0)
    scaled = np.nan_to_num(np.clip((depth - low) / (high - low), 0, 1))
    colors = matplotlib.colormaps[DEPTH_COLORS](scaled, bytes=True)[..., :3]
    return np.where(np.isnan(depth)[..., None], VOID_COLOR, colors)


def _draw(
    images: np.ndarray, rows: list[_Row], names: list[str], label_space: LabelSpace, views: Sequence[int]
) -> np.ndarray:
    height, width = images.shape[1:3]
    factor = -(-MIN_CELL_WIDTH // width)  # whole number, so that a label pixel stays a square of one colour
    cell_height, cell_width = height * factor, width * factor
    page_width = GAP + len(COLUMNS) * (cell_width + GAP)
    legend = _legend(_legend_entries(rows, label_space, views), page_width)
    page_height = LINE + len(views) * len(rows) * (LINE + cell_height + GAP) + legend.height
    page = Image.new('RGB', (page_width, page_height), BACKGROUND)
    draw = ImageDraw.Draw(page)
    lefts = [GAP + column * (cell_width + GAP) for column in range(len(COLUMNS))]
    for left, title in zip(lefts, COLUMNS, strict=True):
        _write(draw, (left + cell_width // 2, LINE // 2 + 2), title, anchor='mm')
    top = LINE
    for view in views:
        for row in rows:
            _write(draw, (GAP, top + LINE // 2), f'{names[view]}  ·  {row.title}', anchor='lm')
            top += LINE
            for left, cell in zip(lefts, _cells(images[view], row, view), strict=True):
                page.paste(Image.fromarray(cell.repeat(factor, axis=0).repeat(factor, axis=1)), (left, top))
            top += cell_height + GAP
    page.paste(legend, (0, top))
    return np.asarray(page)


def _legend_entries(rows: list[_Row], label_space: LabelSpace, views: Sequence[int]) -> list[tuple[np.ndarray, str]]:
    """Depth bars and the classes seen in `views`, each a picture (SWATCH, width, 3) and its text; void comes last."""
    entries: list[tuple[np.ndarray, str]] = []
    ramp = matplotlib.colormaps[DEPTH_COLORS](np.linspace(0, 1, BAR_WIDTH), bytes=True)[None, :, :3]
    for row in rows:
        if row.depth_range:
            low, high = row.depth_range
            entries.append((ramp.repeat(SWATCH, axis=0), f'depth of the {row.title}: {low:.2f} to {high:.2f}'))
    present = {int(c) for row in rows if row.labels for c in np.unique(row.labels[0][list(views)])}
    ordered = sorted(present, key=lambda category: (category < 0, category))
    swatches = [category_colors(np.full((SWATCH, SWATCH), category)) for category in ordered]
    classes = list(zip(swatches, label_space.describe(ordered), strict=True))
    return [*entries, (np.empty((SWATCH, 0, 3), np.uint8), 'semantics:'), *classes] if classes else entries


def _legend(entries: list[tuple[np.ndarray, str]], page_width: int) -> Image.Image:
    """The entries in lines, wrapped to the width of the page."""
    placed: list[tuple[int, int, np.ndarray, str]] = []
    left, line = GAP, 0
    for swatch, text in entries:
        width = swatch.shape[1] + SWATCH // 2 + int(_font().getlength(text))
        if left > GAP and left + width > page_width:
            left, line = GAP, line + 1
        placed.append((left, line * LINE + LINE // 2, swatch, text))
        left += width + 3 * GAP
    legend = Image.new('RGB', (page_width, (line + 1) * LINE + GAP), BACKGROUND)
    draw = ImageDraw.Draw(legend)
    for left, middle, swatch, text in placed:
        if swatch.size:
            legend.paste(Image.fromarray(swatch), (left, middle - SWATCH // 2))
        _write(draw, (left + swatch.shape[1] + SWATCH // 2, middle), text, anchor='lm')
    return legend


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_SIZE)


def _write(draw: ImageDraw.ImageDraw, position: tuple[int, int], text: str, *, anchor: str) -> None:
    draw.text(position, text, fill=INK, font=_font(), anchor=anchor)
