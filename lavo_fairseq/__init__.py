"""A plug-in for fairseq (``--user-dir lavo_fairseq``) with the architectures ``attention_lm`` and ``attention_transformer``.

They are this project's own backbones inside fairseq's model classes, with any attention of the registry.  The same weights
therefore give the same logits and the same loss (docs/fairseq.md).
"""

from lavo_fairseq.encoder_decoder import AttentionTransformer
from lavo_fairseq.language_model import AttentionLanguageModel
from lavo_fairseq.numpy_compat import restore_numpy_compat

__all__ = ["AttentionLanguageModel", "AttentionTransformer"]

restore_numpy_compat()
