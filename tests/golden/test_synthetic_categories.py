"""The categories of made-up rooms carry the identifiers of the public label table."""

from __future__ import annotations

import csv

from pano3d.conversion.synthetic_rooms.categories import RAW_CATEGORIES


def test_identifiers_are_the_public_ones(raw_formats):
    path = raw_formats / 'scannet/scannetv2-labels.combined.tsv'
    with open(path, newline='') as file:
        rows = {row['raw_category']: row for row in csv.DictReader(file, delimiter='\t')}
    for name, category in RAW_CATEGORIES.items():
        public = rows[name]
        assert (category.scannet_id, category.nyu40_id) == (int(public['id']), int(public['nyu40id'])), name
        assert category.nyu40_class == public['nyu40class'], name
