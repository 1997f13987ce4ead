"""Training losses of single tasks."""

from .dust3r_criterion import DUSt3RCriterion
from .set_criterion import SetCriterion
from .vggt_criterion import VGGTCriterion

__all__ = ['DUSt3RCriterion', 'SetCriterion', 'VGGTCriterion']
