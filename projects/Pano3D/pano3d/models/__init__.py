"""The network: backbones, the panoptic head, losses."""

from .anchors import AnchoredPositions
from .backbones import (
    DUSt3RBackbone,
    GeometryConditions,
    MASt3RBackbone,
    MUSt3RBackbone,
    Pi3Backbone,
    Pi3XBackbone,
    VGGTBackbone,
)
from .classifier import LinearClassifier, TextClassifier
from .criteria import DUSt3RCriterion, MUSt3RCriterion, Pi3Criterion, SetCriterion, VGGTCriterion
from .data_preprocessor import SceneDataPreprocessor
from .extra_features import DINOv2Features
from .extra_heads import ExtraHead
from .feature_bridge import FeatureBridge
from .joint_loss import JointLoss
from .keyframes import CoverageKeyframes, EveryNthKeyframes, LinspaceKeyframes
from .layout_baseline import LayoutBaseline
from .mask_upscaler import MaskUpscaler
from .mixed_sizes import images_on_canvas
from .online import KeyframeMemory, reconstruct_online, remember_keyframes, render_in_chunks
from .online_pano3d import OnlinePano3D
from .pano3d import Pano3D, SceneOutput
from .panoptic_set_head import PanopticSetHead
from .queries import HeadOutput, Queries, QueryPrediction
from .query_decoder import QueryDecoder
from .query_selection import TokenSelection
from .readout import ConnectedReadOut, OverlapReadOut, WinnerTakesAllReadOut
from .text_encoders import embed_names, load_text_encoder
from .view_features import ViewFeatures

__all__ = [
    'AnchoredPositions',
    'ConnectedReadOut',
    'CoverageKeyframes',
    'DINOv2Features',
    'DUSt3RBackbone',
    'DUSt3RCriterion',
    'EveryNthKeyframes',
    'ExtraHead',
    'FeatureBridge',
    'GeometryConditions',
    'HeadOutput',
    'JointLoss',
    'KeyframeMemory',
    'LayoutBaseline',
    'LinearClassifier',
    'LinspaceKeyframes',
    'MASt3RBackbone',
    'MUSt3RBackbone',
    'MUSt3RCriterion',
    'MaskUpscaler',
    'OnlinePano3D',
    'OverlapReadOut',
    'Pano3D',
    'PanopticSetHead',
    'Pi3Backbone',
    'Pi3Criterion',
    'Pi3XBackbone',
    'Queries',
    'QueryDecoder',
    'QueryPrediction',
    'SceneDataPreprocessor',
    'SceneOutput',
    'SetCriterion',
    'TextClassifier',
    'TokenSelection',
    'VGGTBackbone',
    'VGGTCriterion',
    'ViewFeatures',
    'WinnerTakesAllReadOut',
    'embed_names',
    'images_on_canvas',
    'load_text_encoder',
    'reconstruct_online',
    'remember_keyframes',
    'render_in_chunks',
]
