"""Fetches public data sets: manifests, downloads, unpacking, installing, and checking what lies in a data root."""
