"""argan: depth and bokeh from one photo, on a CPU or a phone, without torch."""

__version__ = "0.1.0"
