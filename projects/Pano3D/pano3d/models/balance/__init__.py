"""How the tasks share the network: weights of their losses, and what their gradients do where they meet."""

from .gradient_factor import FixedGradientFactor, MeasuredGradientFactor
from .gradient_meter import GradientMeter
from .weighting import BalanceStrategy, FixedWeights, GradientBalancedWeights, UncertaintyWeights

__all__ = [
    'BalanceStrategy',
    'FixedGradientFactor',
    'FixedWeights',
    'GradientBalancedWeights',
    'GradientMeter',
    'MeasuredGradientFactor',
    'UncertaintyWeights',
]
