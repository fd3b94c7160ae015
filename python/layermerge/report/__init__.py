"""The evidence for people: a result on the terminal, and as one self-contained HTML file.

Needs no torch, reads `layermerge.results` only.
"""

from layermerge.report.html import render_html, write_html
from layermerge.report.terminal import print_result

__all__ = ["print_result", "render_html", "write_html"]
