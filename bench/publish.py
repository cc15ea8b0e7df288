"""What the last full run says, for people: docs/benchmarks.svg and the table in docs/benchmarks.md.

``python bench/publish.py`` makes both anew from bench/results.json. A row of the plot is a scenario, its costs
multiples of the physical limit; where there is none (bytes per idle connection, POST over HTTP/2), of the best peer.
"""

import json
import math
from itertools import groupby
from pathlib import Path
from typing import Any

import pygal
from peers import LIMIT, NO_PEERS, OURS, OURS_H2
from pygal.style import Style

BENCH = Path(__file__).parent
DOCS = BENCH.parent / "docs"
BEGIN, END = "<!-- the last full run -->\n", "<!-- its end -->\n"
TICKS = (1, 2, 5, 10, 20, 50, 100, 200)

# Grey text and grid, no background: as legible on a white page as on a black one.
STYLE = Style(
    background="transparent",
    plot_background="transparent",
    foreground="#7d8590",
    foreground_strong="#7d8590",
    foreground_subtle="#7d8590",
    guide_stroke_color="#7d859055",
    major_guide_stroke_color="#7d859055",
    opacity="1",
    opacity_hover="1",
    colors=("#8c959f", "#d9822b", "#2da44e"),
    font_family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif",
    label_font_size=13,
    major_label_font_size=13,
    legend_font_size=14,
    title_font_size=16,
    value_label_font_size=12,
    value_colors=("#8c959f", "#d9822b", "#2da44e"),
)


def plot(tables: list[list[dict[str, Any]]]) -> None:
    chart = pygal.XY(
        stroke=False,
        style=STYLE,
        js=(),
        width=900,
        height=110 + 48 * len(tables),
        x_title="* as a multiple of the best peer's: there is no limit to compare with",
        title="Cost of a request, as a multiple of the least that C can do (less is better)",
        legend_at_bottom=True,
        legend_at_bottom_columns=3,
        print_labels=True,
        show_y_guides=True,
        show_x_guides=True,
        dots_size=5,
        margin_right=30,
        include_x_axis=False,
    )
    points: dict[str, list[Any]] = {"ours": [], "best": [], "others": []}
    names = []
    most = 2.0
    for y, rows in enumerate(reversed(tables), 1):
        measured = sorted((row for row in rows if "median" in row and not row["failed"]), key=lambda r: r["median"])
        peers = [row for row in measured if row["server"] not in NO_PEERS]
        limit = next((row for row in measured if row["server"] == LIMIT), (peers or measured or [None])[0])
        names.append(rows[0]["scenario"] + (" *" if limit and limit["server"] != LIMIT else ""))
        for row in measured:
            if row["server"] != LIMIT:
                ratio = row["median"] / limit["median"]
                most = max(most, ratio)
                ours = row["server"] in (OURS, OURS_H2)
                kind = "ours" if ours else "best" if row is peers[0] else "others"
                points[kind].append({"value": (math.log10(ratio), y), "label": labels(row, measured, peers, ratio)})
    chart.y_labels = [{"label": name, "value": y} for y, name in enumerate(names, 1)]
    chart.x_labels = [{"label": f"{tick} x", "value": math.log10(tick)} for tick in TICKS if tick < most * 1.6]
    chart.range = (0.4, len(names) + 0.6)
    for name, kind in (("other peers", "others"), ("the best peer", "best"), (OURS, "ours")):  # ours on top
        chart.add(name, points[kind])
    chart.render_to_file(str(DOCS / "benchmarks.svg"))


def labels(row: dict[str, Any], measured: list[dict[str, Any]], peers: list[dict[str, Any]], ratio: float) -> str:
    """Ours and the best peer's are written out, as one where they would overlap."""
    ours = next((other for other in measured if other["server"] == OURS), None)
    close = ours is not None and bool(peers) and 0.5 < ours["median"] / peers[0]["median"] < 1.6
    if row is ours:
        return (
            f"{OURS} {ratio:.1f}, {peers[0]['server']} {ratio * peers[0]['median'] / ours['median']:.1f}"
            if close
            else f"{ratio:.1f}"
        )
    if row["server"] == OURS_H2:
        return f"h2 {ratio:.1f}"
    return f"{row['server']} {ratio:.1f}" if peers and row is peers[0] and not close else ""


def table(results: dict[str, Any], tables: list[list[dict[str, Any]]]) -> str:
    """Markdown: the scenarios down, the servers across."""
    names = list(dict.fromkeys(row["server"] for rows in tables for row in rows if "median" in row))
    versions = {row["server"]: row["version"] for rows in tables for row in rows}
    lines = [
        "| |" + "".join(f" {name} {versions[name]}".rstrip() + " |" for name in names),
        "|---|" + "---:|" * len(names),
    ]
    for rows in tables:
        cells = {row["server"]: row for row in rows if "median" in row}
        digits = 1 if rows[0]["unit"] == "µs" else 0
        least = min((row["median"] for row in cells.values() if row["server"] != LIMIT), default=0)
        line = f"| {rows[0]['scenario']}, {rows[0]['unit']} |"
        for name in names:
            text = f"{cells[name]['median']:,.{digits}f}" if name in cells else ""
            if text and cells[name]["median"] == least:
                text = f"**{text}**"
            if text and cells[name]["failed"]:
                text += f" ({cells[name]['failed']} failed)"
            line += f" {text} |"
        lines.append(line)
    notes = dict.fromkeys(f"{row['server']}: {row['note']}" for rows in tables for row in rows if row["note"])
    machine = results["machine"]
    load = machine["load_average"][0], results["load_average_after"][0]
    where = f"{machine['date'][:10]}, {machine['cpu']}, {machine['cores']} cores, {machine['system']}"
    how = f"Python {machine['python']}, load average {load[0]:.1f} before and {load[1]:.1f} after"
    lines += ["", f"{where}; {how}; medians of {results['rounds']} rounds of {results['seconds']} s."]
    if notes:
        lines += ["", "Not measured: " + "; ".join(notes) + "."]
    return "\n".join(lines) + "\n"


def publish(results: dict[str, Any]) -> None:
    tables = [list(rows) for _, rows in groupby(results["rows"], key=lambda row: row["scenario"])]
    plot(tables)
    page = DOCS / "benchmarks.md"
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(before + BEGIN + "\n" + table(results, tables) + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    publish(json.loads((BENCH / "results.json").read_text()))
