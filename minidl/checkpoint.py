"""Checkpoints in a folder: `latest` returns the newest one."""

from minidl.storage.folders import latest

__all__ = ["latest"]
