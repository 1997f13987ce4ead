"""Oracles: counting, a single data set, and one training step on two sources."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope

from pano3d.datasets import InfiniteDrawSampler, MixedScenesDataset, ScanNetMultiViewDataset
from pano3d.datasets.mixed_scenes import shares_of
from pano3d.registry import DATASETS, MODELS

PIPELINE = [
    {'type': 'RandomStrideViews', 'num_views': 2},
    {'type': 'LoadViews'},
    {'type': 'ResizeCrop', 'size': (28, 42)},
    {'type': 'PackScene'},
]


class Draws:
    """A data set whose samples are the indices that were asked for."""

    supports_draws = True

    def __init__(self, name, size, label_space='toy', classes=('wall',)):
        self.name, self.size, self.metainfo = name, size, {'label_space': label_space, 'classes': classes}

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return self.name, index


def mixed(*sizes, **arguments):
    return MixedScenesDataset(datasets=[Draws(name, n) for name, n in zip('abc', sizes, strict=False)], **arguments)


@pytest.mark.parametrize(
    ('weights', 'expected'),
    [
        (None, [7, 3]),
        ([1, 1], [5, 5]),
        ([1e308, 1e308], [5, 5]),
        ([5e-324, 5e-324], [5, 5]),
        ([3, 1], [8, 2]),
        ([1, 3], [3, 7]),
        ([0.7, 0.3], [7, 3]),
    ],
)
def test_every_pass_has_the_shares(weights, expected):
    dataset = mixed(7, 3, weights=weights)
    assert len(dataset) == 10
    for lap in range(4):
        count = Counter(dataset[10 * lap + slot][0] for slot in range(10))
        assert [count['a'], count['b']] == expected


def test_scenes_come_equally_often_and_no_draw_twice():
    dataset = mixed(7, 3, weights=[1, 4])  # 2 and 8 of 10
    drawn = [dataset[index] for index in range(10 * 21)]
    for name, size, total in (('a', 7, 42), ('b', 3, 168)):
        indices = [index for found, index in drawn if found == name]
        assert sorted(indices) == list(range(total)), 'every draw once'
        assert set(Counter(index % size for index in indices).values()) == {total // size}


def test_a_sample_is_a_function_of_seed_and_index():
    first, again, other = mixed(9, 4), mixed(9, 4), mixed(9, 4, seed=1)
    indices = [*range(40), 10**15 + 3]
    assert [first[i] for i in reversed(indices)] == [again[i] for i in reversed(indices)]
    assert [first[i] for i in indices] != [other[i] for i in indices]
    assert first[-1] == first[12]
    assert len(list(first)) == 13
    with pytest.raises(IndexError, match='-14 is out of range'):
        first[-14]


def test_a_resumed_sampler_goes_on_where_it_was():
    dataset = mixed(9, 4, weights=[1, 2])
    whole = [dataset[i] for i in islice(InfiniteDrawSampler(dataset=dataset, seed=2), 60)]
    resumed = InfiniteDrawSampler(dataset=dataset, seed=2)
    resumed.skip(25)
    assert [dataset[i] for i in islice(resumed, 35)] == whole[25:]
    assert Counter(name for name, _ in whole[:52]) == {'a': 16, 'b': 36}  # 4 passes of 4 and 9


@pytest.mark.parametrize('seed', range(5))
def test_shares_are_within_one_of_the_exact_ones(seed):
    rng = np.random.default_rng(seed)
    weights, total = rng.uniform(0.5, 2, 4), int(rng.integers(50, 100))
    shares = shares_of(total, weights.tolist(), 4)
    assert sum(shares) == total
    assert np.abs(np.array(shares) - total * weights / weights.sum()).max() < 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'weights': [1]}, r'2 positive numbers, one per data set, got \[1\]'),
        ({'weights': [1, 0]}, 'positive numbers'),
        ({'weights': [1, float('nan')]}, 'positive numbers'),
        ({'weights': [1000, 1]}, 'leave data set 1 without a sample among the 10'),
    ],
)
def test_refuses_weights_that_mean_nothing(arguments, message):
    with pytest.raises(ValueError, match=message):
        mixed(7, 3, **arguments)


def test_refuses_data_sets_that_do_not_fit():
    with pytest.raises(ValueError, match=r"one label space, found \['toy', 'other'\]"):
        MixedScenesDataset(datasets=[Draws('a', 2), Draws('b', 2, 'other')])
    with pytest.raises(ValueError, match="those called 'toy' differ"):
        MixedScenesDataset(datasets=[Draws('a', 2), Draws('b', 2, classes=('floor',))])
    with pytest.raises(TypeError, match=r'datasets\[1\].*supports_draws.*list'):
        MixedScenesDataset(datasets=[Draws('a', 2), [1, 2]])


def scannet(data_root, **arguments):
    return {'type': 'ScanNetMultiViewDataset', 'data_root': str(data_root), 'ann_file': 'train.json', **arguments}


def test_a_union_reads_no_annotation(data_root):
    with pytest.raises(ValueError, match='give the label space of the source'):
        DATASETS.build(scannet(data_root, label_space='scannet20+scannet200'))


def test_samples_say_what_they_are_labelled_for(data_root):
    plain = DATASETS.build(scannet(data_root, label_space='scannet20', pipeline=PIPELINE))
    part = DATASETS.build(
        scannet(data_root, label_space='scannet20', model_label_space='scannet20+scannet200', pipeline=PIPELINE)
    )
    assert part.metainfo['label_space'] == 'scannet20+scannet200'
    one, two = plain[1]['data_samples'], part[1]['data_samples']
    assert 'labelled_classes' not in one
    assert two.labelled_classes == tuple(range(20))
    assert two.label_space == 'scannet20+scannet200'
    assert torch.equal(one.gt_panoptic.category, two.gt_panoptic.category), 'the first classes of the union'


def test_a_training_step_on_two_sources(data_root):
    """One annotated with 20 classes, one with 200: all but the shared classes are judged by one of them only."""
    union = 'scannet20+scannet200'
    settings = {'model_label_space': union, 'pipeline': PIPELINE, 'indices': 2}
    dataset = DATASETS.build(
        {
            'type': 'MixedScenesDataset',
            'datasets': [
                scannet(data_root, label_space='scannet20', **settings),
                scannet(data_root, label_space='scannet200', **settings),
            ],
        }
    )
    assert isinstance(dataset.datasets[0], ScanNetMultiViewDataset)
    samples = [dataset[index] for index in (0, 2)]
    labelled = [sample['data_samples'].labelled_classes for sample in samples]
    assert [len(classes) for classes in labelled] == [20, 200]
    config = {
        'type': 'Pano3D',
        'data_preprocessor': {'type': 'SceneDataPreprocessor'},
        'backbone': {
            'type': 'VGGTBackbone',
            'heads': ('camera', 'depth'),
            'position_grid': 3,
            'embed_dim': 32,
            'encoder_depth': 1,
            'encoder_heads': 2,
            'decoder_depth': 4,
            'decoder_heads': 2,
            'camera_depth': 1,
            'camera_heads': 2,
            'dense_layers': (0, 1, 2, 3),
            'dense_channels': (8, 8, 8, 8),
            'dense_features': 8,
        },
        'head': {
            'type': 'PanopticSetHead',
            'bridge': {
                'type': 'FeatureBridge',
                'encoder_dim': 32,
                'decoder_dim': 64,
                'hidden_dim': 32,
                'out_dim': 16,
            },
            'upscaler': {'type': 'MaskUpscaler', 'dim': 16, 'out_dim': 16},
            'decoder': {
                'type': 'QueryDecoder',
                'num_queries': 6,
                'dim': 16,
                'num_layers': 1,
                'num_heads': 2,
                'feedforward_dim': 16,
            },
            'classifier': {'type': 'LinearClassifier', 'dim': 16, 'num_classes': 202},
        },
        'joint_loss': {
            'type': 'JointLoss',
            'geometry': {'type': 'VGGTCriterion'},
            'segmentation': {'type': 'SetCriterion', 'num_points': 64},
            'weights': {'geometry': 10.0, 'segmentation': 1.0},
        },
        'readout': {'type': 'WinnerTakesAllReadOut'},
        'label_space': union,
    }
    with DefaultScope.overwrite_default_scope('pano3d'):
        torch.manual_seed(0)
        model = MODELS.build(config)
        model.init_weights()
    bias = model.head.classifier.linear.bias
    judged = []
    for sample in (samples[:1], samples):
        batch = model.data_preprocessor(pseudo_collate(sample), training=True)
        losses = model(**batch, mode='loss')
        total = sum(value for name, value in losses.items() if name.startswith('loss'))
        assert torch.isfinite(total)
        model.zero_grad()
        total.backward()
        judged.append(bias.grad[:-1].nonzero().flatten().tolist())
    assert judged[0] == list(labelled[0])
    assert judged[1] == sorted({*labelled[0], *labelled[1]}) == list(range(202))
