"""Write the figures: the comparison as a Markdown table, and everything as JSON."""

import json
from pathlib import Path
from typing import Any

HEAD = (
    "| | tasks/s | p50 / p99 ms, one at a time | app CPU ms/task | broker CPU ms/task | peak RSS MB | results |\n"
    "|---|--:|--:|--:|--:|--:|--:|"
)


def write_json(report: dict[str, Any], file: Path | None) -> None:
    """Write all figures to the file, unless it is None."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(report, indent=2) + "\n")


def table(report: dict[str, Any]) -> str:
    return "\n".join([HEAD, *(_row(one) for one in report["results"])])


def _row(one: dict[str, Any]) -> str:
    def median(name: str, form: str) -> str:
        return format(one[name]["median"], form) if name in one else "-"

    speed = one["tasks_per_second"]
    app = median("app_cpu_ms", ".2f")
    if "database_cpu_ms" in one:
        app += f" + {median('database_cpu_ms', '.2f')} database"
    cells = [
        f"{one['name']}, {one['variant']}",
        f"{speed['median']:,.0f} ({speed['min']:,.0f} to {speed['max']:,.0f})",
        f"{median('p50_ms', '.1f')} / {median('p99_ms', '.1f')}",
        app,
        median("broker_cpu_ms", ".2f"),
        median("peak_mib", ".0f"),
        f"{sum(r['results'] for r in one['rounds']):,} of {sum(r['tasks'] for r in one['rounds']):,}",
    ]
    return f"| {' | '.join(cells)} |"
