"""The kernel: what every part of Tidewatch shares. It imports nothing else of ours."""

__version__ = "0.1.0"
