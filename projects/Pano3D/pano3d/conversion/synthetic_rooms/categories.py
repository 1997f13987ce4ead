"""The annotation categories that occur in made-up rooms, with their public ScanNet v2 identifiers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RawCategory:
    """One row of `scannetv2-labels.combined.tsv`.

    Args:
        name: what annotators typed, the `label` of an object in `.aggregation.json`.
        scannet_id: column `id`.
        nyu40_id: column `nyu40id`.
        nyu40_class: column `nyu40class`, in the spelling of the public file.
    """

    name: str
    scannet_id: int
    nyu40_id: int
    nyu40_class: str


RAW_CATEGORIES: dict[str, RawCategory] = {
    name: RawCategory(name, scannet_id, nyu40_id, nyu40_class)
    for name, scannet_id, nyu40_id, nyu40_class in (
        ('wall', 1, 1, 'wall'),
        ('floor', 3, 2, 'floor'),
        ('ceiling', 41, 22, 'ceiling'),
        ('cabinet', 7, 3, 'cabinet'),
        ('kitchen cabinet', 29, 3, 'cabinet'),
        ('bathroom vanity', 1164, 3, 'cabinet'),
        ('file cabinet', 75, 3, 'cabinet'),
        ('bed', 11, 4, 'bed'),
        ('chair', 2, 5, 'chair'),
        ('office chair', 10, 5, 'chair'),
        ('armchair', 23, 5, 'chair'),
        ('couch', 6, 6, 'sofa'),
        ('table', 4, 7, 'table'),
        ('coffee table', 24, 7, 'table'),
        ('door', 5, 8, 'door'),
        ('window', 16, 9, 'window'),
        ('bookshelf', 18, 10, 'bookshelf'),
        ('picture', 15, 11, 'picture'),
        ('counter', 35, 12, 'counter'),
        ('desk', 9, 14, 'desk'),
        ('curtain', 21, 16, 'curtain'),
        ('refrigerator', 27, 24, 'refridgerator'),
        ('shower curtain', 55, 28, 'shower curtain'),
        ('toilet', 17, 33, 'toilet'),
        ('sink', 14, 34, 'sink'),
        ('bathtub', 42, 36, 'bathtub'),
        ('trash can', 56, 39, 'otherfurniture'),
        ('ottoman', 67, 39, 'otherfurniture'),
        ('radiator', 96, 39, 'otherfurniture'),
        ('bench', 68, 39, 'otherfurniture'),
        ('wardrobe closet', 99, 39, 'otherfurniture'),
        ('nightstand', 34, 32, 'night stand'),
        ('lamp', 28, 35, 'lamp'),
        ('tv', 33, 25, 'television'),
        ('mirror', 71, 19, 'mirror'),
    )
}

SHELL = ('wall', 'floor', 'ceiling')
"""What a room consists of before it is furnished."""
