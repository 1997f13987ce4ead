"""Classes by other names: what a model trained on the names of ScanNet20 makes of synonyms it has never seen.

    python tools/benchmarks/vocabulary.py configs/pano3d_vggt_demo_open.py CHECKPOINT

The test scenes are labelled three times with the same weights: by the names of the training; with twelve of them
replaced by synonyms; and with these synonyms dealt out wrongly, which shows what the words are worth.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

from mmengine.registry import init_default_scope

from pano3d.apis import evaluate
from pano3d.apis.vocabulary import open_vocabulary
from pano3d.engine import load_config, load_model_weights
from pano3d.registry import MODELS
from pano3d.structures import LabelSpace

SYNONYMS = {
    'wall': 'partition',
    'floor': 'ground',
    'cabinet': 'cupboard',
    'sofa': 'settee',
    'door': 'doorway',
    'bookshelf': 'bookcase',
    'counter': 'worktop',
    'curtain': 'drapes',
    'refrigerator': 'fridge',
    'toilet': 'lavatory',
    'sink': 'washbasin',
    'bathtub': 'bath',
}
"""Chosen before anything was measured. None of them is a class of the training."""


def vocabularies(space: LabelSpace) -> dict[str, LabelSpace]:
    """The label spaces to ask for: same classes in the same order under other names."""
    others = list(SYNONYMS.values())
    wrong = dict(zip(SYNONYMS, others[1:] + others[:1], strict=True))
    return {
        'names of the training': space,
        'twelve synonyms': renamed(space, SYNONYMS),
        'the same, dealt out wrongly': renamed(space, wrong),
    }


def renamed(space: LabelSpace, words: dict[str, str]) -> LabelSpace:
    names = tuple(words.get(name, name) for name in space.names)
    return replace(space, names=names, stuff=frozenset(words.get(name, name) for name in space.stuff))


def main() -> None:
    parser = argparse.ArgumentParser(description='Measure a model with classes by name under synonyms.')
    parser.add_argument('config', help='a model with a TextClassifier')
    parser.add_argument('checkpoint', help='its weights')
    parser.add_argument('--json', type=Path, help='also write the figures here')
    args = parser.parse_args()
    logging.disable(logging.INFO)
    init_default_scope('pano3d')
    config = load_config(args.config)
    space = LabelSpace.load(config.model.label_space)
    found = {}
    for title, wanted in vocabularies(space).items():
        model = MODELS.build(config.model)
        load_model_weights(model, args.checkpoint)
        _, vectors = open_vocabulary(wanted.names, model.head.vocabulary)
        model.set_vocabulary(wanted, vectors)
        with tempfile.TemporaryDirectory() as folder:
            found[title] = evaluate(config, model, folder)
    keys = [key for key in next(iter(found.values())) if key.endswith(('/mIoU', '/PQ'))]
    print('|', ' | '.join(['', *keys]), '|')
    print('|', ' | '.join(['---'] * (1 + len(keys))), '|')
    for title, scores in found.items():
        print('|', ' | '.join([title, *(f'{scores[key]:.3f}' for key in keys)]), '|')
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == '__main__':
    main()
