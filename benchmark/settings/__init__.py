"""Settings: their models, where they come from, and the plan of cells made of them."""

from benchmark.settings.base import Settings

__all__ = ["Settings"]
