"""Child registries of mmengine's, scope `pano3d`.

A config that sets `default_scope = 'pano3d'` (or writes `type='pano3d.Name'`) finds every component without
`custom_imports`: the `locations` are imported on first use.
"""

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry

MODELS = Registry('model', parent=mmengine_registry.MODELS, scope='pano3d', locations=['pano3d.models'])
DATASETS = Registry('dataset', parent=mmengine_registry.DATASETS, scope='pano3d', locations=['pano3d.datasets'])
TRANSFORMS = Registry('transform', parent=mmengine_registry.TRANSFORMS, scope='pano3d', locations=['pano3d.datasets'])
DATA_SAMPLERS = Registry(
    'data sampler', parent=mmengine_registry.DATA_SAMPLERS, scope='pano3d', locations=['pano3d.datasets']
)
METRICS = Registry('metric', parent=mmengine_registry.METRICS, scope='pano3d', locations=['pano3d.evaluation'])
HOOKS = Registry('hook', parent=mmengine_registry.HOOKS, scope='pano3d', locations=['pano3d.engine'])
LOOPS = Registry('loop', parent=mmengine_registry.LOOPS, scope='pano3d', locations=['pano3d.engine'])
