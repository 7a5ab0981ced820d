"""Time, memory and operations of attentions by length."""
