"""The commands that ``python -m minidl`` lists."""
