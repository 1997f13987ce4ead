"""The grammar of metric keys: [label space/]protocol/geometry/metric[/class]."""

from __future__ import annotations

from dataclasses import dataclass

GEOMETRIES = ('pixels', 'gt_points', 'gt_depth', 'own_geometry')


@dataclass(frozen=True)
class MetricKey:
    """A metric key, part by part; `str` gives it back.

    Args:
        label_space: its name; None for what has no classes: depth, points, poses.
        protocol: with the names of choices other than its own, e.g. 'pq_scene_mean_torchmetrics'.
        geometry: whose surface carries the labels, one of `GEOMETRIES`.
        metric: e.g. 'mIoU' or 'AUC@5'.
        class_name: None for a score over all classes.
    """

    label_space: str | None
    protocol: str
    geometry: str
    metric: str
    class_name: str | None = None

    @classmethod
    def parse(cls, key: str) -> MetricKey:
        """The parts of a key.

        Raises:
            ValueError: if it does not follow the grammar.
        """
        parts = key.split('/')
        place = next((place for place, part in enumerate(parts) if part in GEOMETRIES), 0)
        behind = parts[place + 1 :]
        if place not in (1, 2) or len(behind) not in (1, 2) or not all(parts):
            raise ValueError(
                f'metric key {key!r}: expected [label space/]protocol/geometry/metric[/class], geometry one of '
                f'{list(GEOMETRIES)}'
            )
        return cls(parts[0] if place == 2 else None, parts[place - 1], parts[place], *behind)

    def __str__(self) -> str:
        return '/'.join(
            part for part in (self.label_space, self.protocol, self.geometry, self.metric, self.class_name) if part
        )


def protocol_of(prefix: str) -> str:
    """The protocol in the beginning of metric keys: 'unite_mesh' of 'scannet20/unite_mesh', without its geometry."""
    parts = [part for part in prefix.split('/') if part not in GEOMETRIES]
    return parts[-1]
