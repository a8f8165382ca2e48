"""Reports as one HTML file that needs no other; all text is shown as it is, whatever signs it has."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from napari_lpd.core.errors import NOTICE
from napari_lpd.core.text import html_text

if TYPE_CHECKING:
    from collections.abc import Sequence

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1250px;padding:0 1em;color:#111}"
    "table{border-collapse:collapse;margin:1em 0;display:block;overflow-x:auto}"
    "th,td{border:1px solid #ccc;padding:3px 8px;text-align:left;vertical-align:top}th{background:#f2f2f2}"
    "img{max-width:100%}td img{max-width:none}"
)


def html_page(title: str, parts: Sequence[str]) -> str:
    """Put parts, which are HTML already, on a page, below its title and what it is not for."""
    head = html_text(title)
    top = [f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{head}</title>"]
    top += [f"<style>{STYLE}</style></head><body><h1>{head}</h1><p><b>{html_text(NOTICE)}</b></p>"]
    return "\n".join([*top, *parts, "</body></html>\n"])


def html_list(lines: Sequence[str]) -> str:
    """Format sentences as a list."""
    return "<ul>" + "".join(f"<li>{html_text(line)}</li>" for line in lines) + "</ul>"


def html_table(table: Sequence[Sequence[str]], last: Sequence[str] = ()) -> str:
    """Format a table as HTML; `last` is a column that is HTML already."""
    rows = []
    for i, line in enumerate(table):
        tag = "th" if i == 0 else "td"
        cells = [html_text(cell) for cell in line] + ([last[i]] if last else [])
        rows.append("<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>")
    return f"<table>{''.join(rows)}</table>"


def html_image(picture: bytes, kind: str, text: str, attributes: str = "") -> str:
    """Put a picture into the page; `kind` is its type, `text` what it shows."""
    data = base64.b64encode(picture).decode()
    return f"<img {attributes} alt='{html_text(text)}' src='data:image/{kind};base64,{data}'>"
