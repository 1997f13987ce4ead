"""Training losses of single tasks."""

from .set_criterion import SetCriterion
from .vggt_criterion import VGGTCriterion

__all__ = ['SetCriterion', 'VGGTCriterion']
