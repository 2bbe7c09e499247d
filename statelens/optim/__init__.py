"""Training: optimisers of Optax, applied to what a lens selects.

A lens says what is optimised, an optimiser of Optax says how. To Optax the parameters are a
dictionary by path, in both styles; so masks, labels and moments are by path too.
"""

from ._by_lens import by_lens
from ._ema import Ema, ema
from ._fit import Fit, fit
from ._gradients import clip_grad, scale_grad, straight_through
from ._lora import LowRank, lora, merge
from ._optimizer import Optimizer
from ._precision import LossScaleState, dynamic_loss_scale, mixed_precision
from ._train_step import TrainStep, train_step

__all__ = [
    "Ema",
    "Fit",
    "LossScaleState",
    "LowRank",
    "Optimizer",
    "TrainStep",
    "by_lens",
    "clip_grad",
    "dynamic_loss_scale",
    "ema",
    "fit",
    "lora",
    "merge",
    "mixed_precision",
    "scale_grad",
    "straight_through",
    "train_step",
]
