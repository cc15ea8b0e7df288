"""What was measured last, for people: docs/benchmarks.svg and the tables in docs/benchmarks.md.

``python bench/publish.py`` makes both anew from bench/results.json. A row of the plot is a scenario, its costs
multiples of the physical limit; where there is none (bytes per idle connection, POST over HTTP/2), of the best peer.
"""

import math
from pathlib import Path
from typing import Any

import pygal
import results
from pygal.style import Style
from results import ALL_OURS, LIMIT, OURS, OURS_H2, OURS_PURE, Row, Slice

BENCH = Path(__file__).parent
DOCS = BENCH.parent / "docs"
BEGIN, END = "<!-- what was measured -->\n", "<!-- its end -->\n"
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


def digits(measured: Slice) -> int:
    return 1 if measured["unit"] == "µs" else 0


def plot(slices: list[Slice]) -> None:
    chart = pygal.XY(
        stroke=False,
        style=STYLE,
        js=(),
        width=900,
        height=110 + 48 * len(slices),
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
    for y, measured in enumerate(reversed(slices), 1):
        rows = sorted((row for row in measured["rows"] if results.sound(row)), key=lambda row: row["median"])
        peers = [row for row in rows if row["server"] not in (*ALL_OURS, LIMIT)]
        limit = results.row(rows, LIMIT) or (peers or rows or [None])[0]
        names.append(measured["scenario"] + (" *" if limit and limit["server"] != LIMIT else ""))
        for row in rows:
            if row["server"] != LIMIT:
                ratio = row["median"] / limit["median"]
                most = max(most, ratio)
                kind = "ours" if row["server"] in ALL_OURS else "best" if row is peers[0] else "others"
                points[kind].append({"value": (math.log10(ratio), y), "label": label(row, rows, peers, ratio)})
    chart.y_labels = [{"label": name, "value": y} for y, name in enumerate(names, 1)]
    chart.x_labels = [{"label": f"{tick} x", "value": math.log10(tick)} for tick in TICKS if tick < most * 1.6]
    chart.range = (0.4, len(names) + 0.6)
    for name, kind in (("other peers", "others"), ("the best peer", "best"), (OURS, "ours")):  # ours on top
        chart.add(name, points[kind])
    chart.render_to_file(str(DOCS / "benchmarks.svg"))


def label(row: Row, rows: list[Row], peers: list[Row], ratio: float) -> str:
    """Ours and the best peer's are written out, as one where they would overlap."""
    ours = results.row(rows, OURS)
    close = ours is not None and bool(peers) and 0.5 < ours["median"] / peers[0]["median"] < 1.6
    if row is ours:
        return (
            f"{OURS} {ratio:.1f}, {peers[0]['server']} {ratio * peers[0]['median'] / ours['median']:.1f}"
            if close
            else f"{ratio:.1f}"
        )
    if row["server"] in (OURS_PURE, OURS_H2):
        return f"{row['server'].removeprefix(OURS).strip()} {ratio:.1f}"
    return f"{row['server']} {ratio:.1f}" if peers and row is peers[0] and not close else ""


# --- tables in Markdown


def figures(slices: list[Slice]) -> list[str]:
    """The scenarios down, the servers across; the least of each in bold."""
    names = list(dict.fromkeys(row["server"] for each in slices for row in each["rows"] if "median" in row))
    versions = {row["server"]: row["version"] for each in slices for row in each["rows"]}
    lines = [
        "| |" + "".join(f" {name} {versions[name]}".rstrip() + " |" for name in names),
        "|---|" + "---:|" * len(names),
    ]
    for each in slices:
        cells = {row["server"]: row for row in each["rows"] if "median" in row}
        least = min(
            (row["median"] for row in cells.values() if results.sound(row) and row["server"] != LIMIT), default=0
        )
        line = f"| {each['scenario']}, {each['unit']} |"
        for name in names:
            text = f"{cells[name]['median']:,.{digits(each)}f}" if name in cells else ""
            if text and cells[name]["median"] == least:
                text = f"**{text}**"
            if text and "p99_ms" in cells[name]:
                text += f" (p99 {cells[name]['p99_ms']:.0f} ms)"
            if text and cells[name]["failed"]:
                text += f" ({cells[name]['failed']} failed)"
            line += f" {text} |"
        lines.append(line)
    return lines


def ratios(slices: list[Slice]) -> list[str]:
    """Ours to the limit and to the best peer, and when and how it was measured: above 1 we lose."""
    lines = [
        f"| | {OURS} / C | {OURS} / best peer | {OURS_PURE} / best peer | best peer | measured | load average |",
        "|---|---:|---:|---:|---|---|---|",
    ]
    for each in slices:
        rows = each["rows"]
        ours, pure = results.row(rows, OURS), results.row(rows, OURS_PURE)
        limit, best = results.row(rows, LIMIT), results.best_peer(rows)
        cells = [times(ours, limit), times(ours, best), times(pure, best), best["server"] if best else ""]
        cells += [f"{each['date'][:10]}, {each['commit']}, {each['rounds']} x {each['seconds']} s"]
        cells += [f"{each['load_average']:.1f} to {each['load_average_after']:.1f}"]
        lines.append(f"| {each['scenario']} | " + " | ".join(cells) + " |")
    return lines


def times(ours: Row | None, theirs: Row | None) -> str:
    return f"{ours['median'] / theirs['median']:.2f}" if ours and theirs else ""


def aims(slices: list[Slice]) -> list[str]:
    lines = ["| what we aim at | at most | measured | |", "|---|---:|---:|---|"]
    for verdict in results.verdicts(slices):
        scenario, most, server, figure = verdict.target
        aim = f"{most:.2f} x {server}" if server else f"{most:,.0f} bytes"
        measured = "" if verdict.measured is None else f"{verdict.measured:,.{2 if server else 0}f}"
        met = "not measured" if verdict.measured is None else "met" if verdict.met else "**not met**"
        lines.append(f"| {scenario}{', p99' if figure == 'p99_ms' else ''} | {aim} | {measured} | {met} |")
    return lines


def notes(slices: list[Slice]) -> list[str]:
    last = max(slices, key=lambda each: each["date"])
    lines = [f"{last['cpu']}, {last['cores']} cores, {last['system']}, Python {last['python']}; medians."]
    missing: dict[str, list[str]] = {}
    for each in slices:
        for row in each["rows"]:
            if row["note"]:
                missing.setdefault(f"{row['server']}: {row['note']}", []).append(each["scenario"])
    if missing:
        lines += ["", "Not measured:", ""]
        lines += [f"- {why} ({'; '.join(scenarios)})" for why, scenarios in missing.items()]
    return lines


def publish(slices: list[Slice]) -> None:
    plot(slices)
    page = DOCS / "benchmarks.md"
    before, _, rest = page.read_text().partition(BEGIN)
    parts = [figures(slices), notes(slices), aims(slices), ratios(slices)]
    text = "\n\n".join("\n".join(lines) for lines in parts)
    page.write_text(f"{before}{BEGIN}\n{text}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    publish(results.read())
