"""The comparison as one HTML page that opens offline.

    report, traces -> sections (tables, charts, pictures) -> page.html.jinja -> one file

``render_page`` is pure: the same report and traces give the same bytes. Everything stands in the page: style, script, pictures;
its Content-Security-Policy forbids the network and any other script.
"""

from __future__ import annotations

from aprgraph.runtime.report.page import check_place, render_page, write_page

__all__ = ["check_place", "render_page", "write_page"]
