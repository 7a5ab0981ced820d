"""A plug-in for fairseq (``--user-dir lavo_fairseq``) with the architectures ``attention_lm`` and ``attention_transformer``.

Both put a model of this project, with any of its attentions, into fairseq's model classes.  So the same weights give the same
logits and the same loss here and in fairseq (docs/fairseq.md).
"""

from lavo_fairseq.encoder_decoder import AttentionTransformer
from lavo_fairseq.language_model import AttentionLanguageModel
from lavo_fairseq.numpy_compat import restore_numpy_compat

__all__ = ["AttentionLanguageModel", "AttentionTransformer"]

restore_numpy_compat()
