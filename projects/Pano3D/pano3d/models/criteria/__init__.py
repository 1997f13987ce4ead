"""Training losses of single tasks."""

from .dust3r_criterion import DUSt3RCriterion
from .must3r_criterion import MUSt3RCriterion
from .pi3_criterion import Pi3Criterion
from .set_criterion import SetCriterion
from .vggt_criterion import VGGTCriterion

__all__ = ['DUSt3RCriterion', 'MUSt3RCriterion', 'Pi3Criterion', 'SetCriterion', 'VGGTCriterion']
