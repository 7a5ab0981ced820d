"""Settings: their models, the files and options that give them, and the plan of cells that follows from them."""

from benchmark.settings.base import Settings

__all__ = ["Settings"]
