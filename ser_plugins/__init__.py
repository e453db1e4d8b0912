"""Speech emotion recognition from the representations of a frozen speech recogniser (Lakomkin et al. 2017)."""

__version__ = "0.1.0"
