"""VGGT-1B on ScanNet and ScanNet++: the union of their classes, each scene judged on the classes of its annotation."""

_base_ = 'pano3d_vggt_scannet.py'

label_space = 'scannet20+scannetpp100'
scannet = dict(model_label_space=label_space, **_base_.train_dataloader.dataset)

model = dict(label_space=label_space, head=dict(classifier=dict(num_classes=105)))
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='MixedScenesDataset',
        datasets=[
            scannet,
            {**scannet, 'data_root': 'data/scannetpp_dslr', 'label_space': 'scannetpp100'},
        ],
        weights=[1, 1],
    )
)
val_dataloader = dict(dataset=dict(model_label_space=label_space))
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='ScenePanopticMetric', label_space=label_space),
    dict(type='SemanticIoUMetric', label_space=label_space),
    dict(type='DepthMetric', protocol='depth_per_view'),
    dict(type='DepthMetric', protocol='depth_mvd'),
]
test_evaluator = val_evaluator
