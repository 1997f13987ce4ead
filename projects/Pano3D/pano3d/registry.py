"""Child registries of mmengine's, scope `pano3d`.

A config that sets `default_scope = 'pano3d'` (or writes `type='pano3d.Name'`) finds every component without
`custom_imports`: the `locations` are imported on first use.
"""

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry


def _child(parent: Registry, *locations: str) -> Registry:
    return Registry(parent.name, parent=parent, scope='pano3d', locations=[f'pano3d.{place}' for place in locations])


MODELS = _child(mmengine_registry.MODELS, 'models', 'mmdet3d')
DATASETS = _child(mmengine_registry.DATASETS, 'datasets')
TRANSFORMS = _child(mmengine_registry.TRANSFORMS, 'datasets')
DATA_SAMPLERS = _child(mmengine_registry.DATA_SAMPLERS, 'datasets')
METRICS = _child(mmengine_registry.METRICS, 'evaluation', 'mmdet3d')
HOOKS = _child(mmengine_registry.HOOKS, 'engine')
LOOPS = _child(mmengine_registry.LOOPS, 'engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child(mmengine_registry.OPTIM_WRAPPER_CONSTRUCTORS, 'engine')
STRATEGIES = _child(mmengine_registry.STRATEGIES, 'engine')
# Nothing of ours is in these yet; without them mmengine warns at every start that the scope has no such registry.
MODEL_WRAPPERS = _child(mmengine_registry.MODEL_WRAPPERS, 'models')
OPTIMIZERS = _child(mmengine_registry.OPTIMIZERS, 'engine')
OPTIM_WRAPPERS = _child(mmengine_registry.OPTIM_WRAPPERS, 'engine')
PARAM_SCHEDULERS = _child(mmengine_registry.PARAM_SCHEDULERS, 'engine')
LOG_PROCESSORS = _child(mmengine_registry.LOG_PROCESSORS, 'engine')
VISUALIZERS = _child(mmengine_registry.VISUALIZERS, 'visualization')
VISBACKENDS = _child(mmengine_registry.VISBACKENDS, 'visualization')
