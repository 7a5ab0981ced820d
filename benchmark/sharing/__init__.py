"""Hands results on: a folder of records is checked and packed, and packs are merged into one page (docs/sharing.md)."""
