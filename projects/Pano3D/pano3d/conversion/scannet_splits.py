"""The official splits of ScanNet v2, by the number of the space that a scan shows."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Spaces of `scannetv2_val.txt` in the official repository; its 312 scans are all those of these spaces.
_VALIDATION = """
    11 15 19 25 30 46 50 63 64 77 81 84 86 88 95 100 131 139 144 146 149 153 164 169 187 193 196 203 207 208 217 221
    222 231 246 249 251 256 257 277 278 300 304 307 314 316 328 329 334 338 342 343 351 353 354 355 356 357 377 378
    382 389 406 412 414 423 426 427 430 432 435 441 458 461 462 474 488 490 494 496 500 518 527 535 549 550 552 553
    558 559 565 568 574 575 578 580 583 591 593 595 598 599 606 607 608 609 616 618 621 629 633 643 644 645 647 648
    651 652 653 655 658 660 663 664 665 670 671 678 684 685 686 689 690 693 695 696 697 699 700 701 702 704
"""
VALIDATION_SPACES = frozenset(map(int, _VALIDATION.split()))
FIRST_TEST_SPACE = 707  # scans of `scannetv2_test.txt` are those of the spaces from here on

_SCAN = re.compile(r'scene(\d{4})_\d{2}')


def official_splits(scene_ids: Sequence[str]) -> dict[str, list[str]]:
    """Scans by split, `train`, `val` and `test`, each in the given order.

    Raises:
        ValueError: if a name is not of the form scene0000_00.

    >>> official_splits(['scene0011_01', 'scene0000_00', 'scene0707_00'])
    {'train': ['scene0000_00'], 'val': ['scene0011_01'], 'test': ['scene0707_00']}
    """
    splits: dict[str, list[str]] = {'train': [], 'val': [], 'test': []}
    for scene_id in scene_ids:
        match = _SCAN.fullmatch(scene_id)
        if match is None:
            raise ValueError(f'{scene_id!r}: expected the name of a scan of ScanNet, as scene0000_00')
        space = int(match[1])
        split = 'test' if space >= FIRST_TEST_SPACE else 'val' if space in VALIDATION_SPACES else 'train'
        splits[split].append(scene_id)
    return splits
