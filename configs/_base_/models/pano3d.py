# What Pano3D is whatever reconstructs: head, losses, read-out (method.md). A backbone and its own loss go on top.
model = dict(
    type='Pano3D',
    data_preprocessor=dict(type='SceneDataPreprocessor'),
    head=dict(
        type='PanopticSetHead',
        bridge=dict(type='FeatureBridge', hidden_dim=1024, out_dim=256),
        upscaler=dict(type='MaskUpscaler', dim=256, out_dim=256),
        decoder=dict(
            type='QueryDecoder',
            num_queries=100,
            dim=256,
            num_layers=9,
            # Mask2Former with R50 on COCO panoptic (method.md, section 4); None starts at random.
            init_cfg=dict(type='Pretrained', checkpoint='checkpoints/mask2former_r50_coco_panoptic.pth'),
        ),
        classifier=dict(type='LinearClassifier', dim=256, num_classes=20),
    ),
    joint_loss=dict(
        type='JointLoss',
        segmentation=dict(type='SetCriterion'),
        weights=dict(geometry=10.0, segmentation=1.0),
    ),
    readout=dict(type='OverlapReadOut'),
    label_space='scannet20',
    segmentation_gradient=0.1,
    frozen_encoder=True,
)
