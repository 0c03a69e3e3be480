"""The report as one HTML file, without scripts or external resources."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template

from prediction_client.load.measured import Run
from prediction_client.load.plots import colour, svgs
from prediction_client.load.report import lines, statuses, warnings

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #f5f7fa; margin: 0; }
  main { max-width: 1240px; margin: 0 auto; padding: 28px 24px 48px; }
  h1 { font-size: 26px; margin: 0; } h2 { font-size: 17px; margin: 28px 0 8px; }
  .about { color: #616e7c; margin: 2px 0 18px; }
  .verdict { border-radius: 8px; padding: 10px 16px; margin: 0 0 12px; border-left: 5px solid #2a9d8f; }
  .verdict { background: #e3f4ef; } .bad { background: #fbe5e1; border-color: #c1121f; }
  .note { background: #fdf4dc; border-color: #e9b949; }
  .cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 16px 0; }
  .card, .plot, table { background: white; border-radius: 8px; box-shadow: 0 1px 3px rgb(31 41 51 / 12%); }
  .card { padding: 12px 16px; } .card b { display: block; font-size: 24px; font-variant-numeric: tabular-nums; }
  .card span, th { color: #616e7c; font-size: 13px; font-weight: normal; }
  table { border-collapse: collapse; table-layout: fixed; width: 100%; overflow: hidden; }
  th, td { padding: 6px 14px; text-align: right; font-variant-numeric: tabular-nums; }
  th:first-child, td:first-child { text-align: left; } tr + tr td { border-top: 1px solid #e4e7eb; }
  tr.all td { font-weight: 600; }
  i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 8px; }
  .plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(560px, 100%), 1fr)); gap: 16px; }
  .plots { margin-top: 18px; }
  .plot { padding: 10px; } .plot svg { width: 100%; height: auto; }
  dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; } dt { color: #616e7c; } dd { margin: 0; }
</style></head><body><main>
<h1>$title</h1><p class="about">$about</p>
$verdict
<div class="cards">$cards</div>
$tables
<div class="plots">$plots</div>
</main></body></html>
""")
FIGURES = ("mean", "p50", "p95", "p99", "p99.9", "max")


def write(runs: Sequence[Run], broken: Sequence[str], path: Path, about: str) -> None:
    """Write the report of one run, or of several that are compared; the last is the main one."""
    notes = dict.fromkeys(text for run in runs for text in warnings(run))
    verdict = "".join(_verdict("bad", text) for text in broken) or _verdict("", "All limits were kept.")
    text = PAGE.substitute(
        title=escape(about.partition(":")[0]) + " under load",
        about=escape(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC · {about}"),
        verdict=verdict + "".join(_verdict("note", note) for note in notes),
        cards="".join(f'<div class="card"><span>{name}</span><b>{value}</b></div>' for name, value in _cards(runs[-1])),
        tables="".join(map(_table, runs[::-1])),
        plots="".join(f'<div class="plot">{svg}</div>' for svg in svgs(runs)),
    )
    path.write_text(text, encoding="utf-8")


def _verdict(kind: str, text: str) -> str:
    return f'<p class="verdict {kind}">{escape(text)}</p>'


def _cards(run: Run) -> list[tuple[str, str]]:
    facts = run.summary()
    latency, calls = facts["latency"]["all"], facts["model_calls_per_input"]
    percentiles = [(name, f"{latency[f'{name}_ms']:,.2f} ms") for name in ("p50", "p99") if latency["count"]]
    return [
        ("correct replies per second", f"{facts['goodput_per_s']:,.0f}"),
        *percentiles,
        ("failed requests", f"{run.failed:,}"),
        ("model calls per distinct input", "-" if calls is None else f"{calls:g}"),
    ]


def _table(run: Run) -> str:
    heads = "".join(f"<th>{name}, ms</th>" for name in FIGURES)
    rows = "".join(
        f'<tr class="{escape(status)}"><td><i style="background:{colour(status)}"></i>{escape(status)}</td>'
        f"<td>{facts['count']:,}</td><td>{facts['count'] / run.answered:.1%}</td>"
        + "".join(f"<td>{facts[f'{name}_ms']:,.2f}</td>" for name in FIGURES)
        + "</tr>"
        for status, facts in statuses(run)
    )
    said = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in lines(run))
    heading = f"<h2>{escape(run.name[:1].upper() + run.name[1:] or 'Latency by cache status')}</h2>"
    return f"{heading}<table><tr><th></th><th>answers</th><th>share</th>{heads}</tr>{rows}</table><dl>{said}</dl>"
