"""Commands: `minidl.train` and `minidl.predict`."""
