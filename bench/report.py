"""The figures as tables for a terminal and for a page, and as a chart."""

import html
import statistics

NAMES = {
    "leveret": "Leveret",
    "rabbitmq": "RabbitMQ",
    "nats": "NATS core",
    "jetstream": "NATS JetStream",
    "bare": "bare program",
    "disk": "bare disk",
    "stuck": "Leveret, beside it",
}
COLOURS = {
    "leveret": "#d1495b",
    "rabbitmq": "#edae49",
    "nats": "#30638e",
    "jetstream": "#00798c",
    "bare": "#6b6b6b",
    "disk": "#9a9a9a",
    "stuck": "#e29aa4",
}


def short(number):
    """Three digits: 1.23M, 45.6k, 789."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}" if number / unit < 999.5 else f"{number / unit:.0f}{name}"
    return f"{number:.3g}" if number < 999.5 else f"{number:.0f}"


def figures(row, run):
    """Messages per second of one run, delivered copies counted one by one."""
    if run["generator"] == "xtask disk-load":
        return run["per_second"]
    return run["published" if row.figure == "published" else "consumed"]["per_second"]


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def server_cpu(runs):
    return median([(run.get("server") or {}).get("cpu_us_per_message") for run in runs])


def percentiles(runs, which, names):
    found = [run[which] for run in runs if run.get(which)]
    return " / ".join(short(median([one[name] for one in found])) for name in names) if found else ""


def rate_lines(row, results):
    """A row's lines: peer, rates, server's processor time, remarks."""
    rates = {peer: [figures(row, run) for run in runs] for peer, runs in results.items()}
    own = median(rates.get("leveret", []))
    for peer, values in rates.items():
        runs = results[peer]
        cpu, middle = server_cpu(runs), median(values)
        ratio = f"{own / middle:.2f}" if own and middle and peer != "leveret" else ""
        remarks = []
        published = median([(run.get("published") or {}).get("per_second") for run in runs])
        if row.figure == "consumed" and published and "fanout" not in row.work[peer] and middle < 0.97 * published:
            remarks.append(f"delivered {middle / published:.0%} of {short(published)}/s published")
        generator = median([run.get("generator_cores") for run in runs])
        if generator and generator > 0.9:
            remarks.append(f"generator {generator:.2f} cores")
        spread = f"{short(min(values))} / {short(middle)} / {short(max(values))}"
        yield [NAMES[peer], spread, "" if cpu is None else f"{cpu:.3g}", ratio, "; ".join(remarks)]


def latency_lines(results):
    for peer, runs in results.items():
        confirm = "sync_latency_us" if peer == "disk" else "confirm_latency_us"
        cores = median([(run.get("server") or {}).get("cores") for run in runs])
        missing = max((run.get("missing") or 0) for run in runs)
        rate = median([(run.get("consumed") or {}).get("per_second") for run in runs])
        asked = median([(run.get("published") or {}).get("per_second") for run in runs])
        remarks = f"{missing} never came" if missing else ""
        if rate and asked and rate < 0.97 * asked:
            remarks = f"delivered {short(rate)}/s in time"
        yield [
            NAMES[peer],
            percentiles(runs, "delivery_latency_us", ["p50", "p99", "p99.9"]),
            percentiles(runs, confirm, ["p50", "p99", "p99.9"]),
            "" if cores is None else f"{cores:.2f}",
            remarks,
        ]


def table_of(row, results):
    if row.figure == "latency":
        head = ["", "delivery µs, p50 / p99 / p99.9", "confirm µs, p50 / p99 / p99.9", "server cores", ""]
        return head, list(latency_lines(results))
    what = "published" if row.figure == "published" else "delivered"
    head = ["", f"{what}/s, min / median / max", "server µs per message", "Leveret is ×", ""]
    return head, list(rate_lines(row, results))


def as_text(row, results):
    head, lines = table_of(row, results)
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    out = [f"{row.name}: {row.title}"]
    for line in [head, *lines]:
        out.append("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    return "\n".join(out) + "\n"


def as_markdown(row, results):
    head, lines = table_of(row, results)
    out = [f"### `{row.name}`: {row.title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    out += ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join(out) + "\n"


def page(measured, chart):
    """The whole page. `measured` is a list of rows and their results; `about` says where it was."""
    about = measured["about"]
    machine = about["machine"]
    lines = [
        f"# Measured on {about['date']}",
        "",
        f"{machine['processor']}, {machine['cores']} cores shared by generator and servers, {machine['memory_gib']} GiB, "
        f"{machine['system']}, {machine['file_system']}; everything on the loopback interface.",
        "",
        *[f"- {NAMES[name]}: {version}" for name, version in about["versions"].items()],
        f"- {about['rounds']} rounds of {about['seconds']} s after {about['warmup']} s of warm-up, the servers in turn",
        "",
        "RabbitMQ's queues are classic and durable. JetStream stores in files and syncs every two minutes; Leveret syncs "
        "before each confirm. NATS core has no queue and stores nothing. The bare program reads publishes, appends their "
        "bodies to a file, syncs what has gathered, confirms and delivers, and does nothing else. The bare disk writes as many messages as the window "
        "has, syncs, and again, with 64 bytes beside each message; in the latency rows it writes and syncs what is due.",
        "",
        f"![Messages per second]({chart})",
        "",
    ]
    lines += [as_markdown(row, results) for row, results in measured["rows"]]
    return "\n".join(lines)


def svg(measured):
    """Bars per row, each row to its own scale; the bare disk is left out."""
    left, width, bar, gap = 250, 420, 16, 26
    y, parts = 30, []
    for row, results in measured:
        if row.figure == "latency":
            continue
        rates = {peer: median([figures(row, run) for run in runs]) for peer, runs in results.items() if peer != "disk"}
        longest = max(rates.values()) or 1
        parts.append(f'<text x="8" y="{y}" font-weight="bold">{html.escape(row.title)}</text>')
        y += 8
        for peer, rate in rates.items():
            length = max(1.0, width * rate / longest)
            parts.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{NAMES[peer]}</text>')
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 3}" fill="{COLOURS[peer]}"/>')
            parts.append(f'<text x="{left + length + 6:.1f}" y="{y + 12}">{short(rate)}</text>')
            y += bar
        y += gap
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{y}" viewBox="0 0 760 {y}" '
        'font-family="sans-serif" font-size="12" fill="#222">'
        '<title>Messages per second, each row to its own scale</title><rect width="100%" height="100%" fill="#fff"/>'
    )
    return head + "".join(parts) + "</svg>\n"
