"""The learning rate at each step.  It depends on step and settings only, so resuming a training doesn't change it."""

from __future__ import annotations

import math

from benchmark.settings.models import TrainSettings


def learning_rate(train: TrainSettings, step: int, *, num_steps: int, steps_per_epoch: int) -> float:
    """Returns the rate of a step, counted from 0: a linear warm-up to the peak, ``learning_rate``, then the schedule.

    constant      stays at the peak
    linear        falls linearly to final_ratio · peak at the last step
    cosine        falls to the same rate along half a cosine
    inverse_sqrt  peak · √(warmup / step), as in fairseq
    exponential   peak · decay^⌊epochs done / decay_epochs⌋, not below final_ratio
    """
    peak, warmup = train.learning_rate, train.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - 1 - warmup)
    match train.schedule:
        case "constant":
            factor = 1.0
        case "linear":
            factor = 1 - (1 - train.final_ratio) * progress
        case "cosine":
            factor = train.final_ratio + (1 - train.final_ratio) * (1 + math.cos(math.pi * progress)) / 2
        case "inverse_sqrt":
            factor = math.sqrt(max(1, warmup) / max(1, warmup, step + 1))
        case "exponential":
            factor = max(train.final_ratio, train.decay ** math.floor(step / steps_per_epoch / train.decay_epochs))
    return peak * factor
