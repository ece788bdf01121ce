"""Comparisons as self-contained HTML pages."""
