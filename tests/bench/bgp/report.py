#!/usr/bin/env python3
"""Renders docs/benchmarks.md from the committed results: report.py RESULTS_DIR > docs/benchmarks.md"""
import json
import os
import statistics
import sys

from bench import get
from scenarios import AT_LEAST, AT_MOST, BEST, COLUMNS, GOALS, SCENARIOS

INTRODUCTION = """# Benchmarks

Rendered by `tests/bench/bgp/report.py` from `tests/bench/results`; change those, not this page.

    tests/bench/run.sh bgp                                   # every scenario, three runs
    tests/bench/run.sh bgp --scenarios A,C --peers tortie,bird --runs 5
    tests/bench/run.sh sim                                   # the simulation
    tests/bench/run.sh ipam                                  # address management
    tests/bench/run.sh sqlite                                # watches of the SQLite store
    tests/bench/run.sh report                                # this page again

`tests/bench/README.md` says what is needed and how the measurements are made. Only ratios within one session mean
anything: the same machine gives other seconds on another day. Values are medians, with the least and the greatest in
brackets where they differ.
"""


def values(data, scen, peer, field):
    """What the runs that count have for a field."""
    runs = [r for r in data["runs"] if r["scen"] == scen and r["peer"] == peer and not r["problems"]]
    return [v for v in (get(r["result"], field) for r in runs) if v is not None]


def median(data, scen, peer, field):
    found = values(data, scen, peer, field)
    return statistics.median(found) if found else None


def number(v):
    if v is None:
        return "-"
    if v >= 100 or v == int(v):
        return f"{v:,.0f}"
    return f"{v:.3g}"


def cell(found):
    if not found:
        return "-"
    middle, low, high = number(statistics.median(found)), number(min(found)), number(max(found))
    return middle if low == high else f"{middle} ({low} to {high})"


def judge(data, goal):
    """(ours, what it is measured against, the ratio, whether the goal is met); None where nothing was measured."""
    ours = median(data, goal.scenario, "tortie", goal.field)
    if goal.against in (AT_MOST, AT_LEAST):
        met = None if ours is None else ours <= goal.limit if goal.against == AT_MOST else ours >= goal.limit
        return ours, None, None, met
    if goal.against in SCENARIOS:
        theirs = median(data, goal.against, "tortie", goal.field)
    elif goal.against == BEST:
        others = sorted({r["peer"] for r in data["runs"]} - {"tortie"})
        theirs = min((v for v in (median(data, goal.scenario, p, goal.field) for p in others) if v is not None), default=None)
    else:
        theirs = median(data, goal.scenario, goal.against, goal.field)
    if ours is None or not theirs:
        return ours, theirs, None, None
    return ours, theirs, ours / theirs, ours / theirs <= goal.limit


def goals(data):
    yield "| scenario | what | tortie | against | ratio | goal | |"
    yield "| --- | --- | ---: | --- | ---: | --- | --- |"
    for goal in GOALS:
        ours, theirs, ratio, met = judge(data, goal)
        against = "" if goal.against in (AT_MOST, AT_LEAST) else f"{goal.against}: {number(theirs)}"
        limit = {AT_MOST: "≤ ", AT_LEAST: "≥ "}.get(goal.against, "≤ ") + f"{goal.limit:g}" + (" ×" if against else "")
        verdict = {None: "not measured", True: "met", False: "**not met**"}[met]
        shown = f"{ratio:.2f}" if ratio is not None else ""
        yield f"| {goal.scenario} | {goal.what} | {number(ours)} | {against} | {shown} | {limit} | {verdict} |"


def scenario(data, scen):
    runs = [r for r in data["runs"] if r["scen"] == scen]
    columns = COLUMNS[scen]
    yield f"### {scen}: {SCENARIOS[scen].title}"
    yield ""
    yield "| speaker | runs | " + " | ".join(c[0] for c in columns) + " |"
    yield "| --- | ---: |" + " ---: |" * len(columns)
    for peer in dict.fromkeys(r["peer"] for r in runs):
        mine = [r for r in runs if r["peer"] == peer]
        good = [r for r in mine if not r["problems"]]
        count = f"{len(good)}" if len(good) == len(mine) else f"{len(good)} of {len(mine)}"
        cells = " | ".join(cell(values(data, scen, peer, c[1])) for c in columns)
        yield f"| {peer} | {count} | {cells} |"
    notes = dict.fromkeys(f"{r['peer']}: {p}" for r in runs for p in r["problems"])
    if notes:
        yield ""
        yield "Runs that do not count:"
        yield ""
        yield from (f"* {note}" for note in notes)
    bounds = dict.fromkeys(f"{r['peer']}, {n.split(':')[0]}: the tool was busy for most of it, so the time is an upper bound"
                           for r in runs for n in r.get("notes", []))
    if bounds:
        yield ""
        yield from (f"* {bound}" for bound in bounds)
    differing = [c for r in runs if r["peer"] == "tortie" for c in r["result"].get("not_right", [])]
    if differing:
        yield ""
        yield "Of tortie's rows, not right:"
        yield ""
        yield from (f"* {c['case']} (RFC {c['rfc']}): {c['got']}, expected {' or '.join(c['must'])}" for c in differing)
    yield ""


def environment(data):
    m = data["machine"]
    yield f"{data['date']}; {m['cpus']} CPUs ({m['cpu']}), {m['memory_mib']:,} MiB; {m['system']}, kernel {m['kernel']}; all on loopback."
    yield ""
    yield from (f"* {peer}: {version}" for peer, version in sorted(data["versions"].items()))
    yield ""


def simulation(data):
    yield "## The core, simulated"
    yield ""
    yield "`bgp-sim`: speakers of `bgp-proto` without sockets, UPDATEs as octets over links with delay, two tiers of redundant"
    yield "reflectors, failures at random times, all from a seed. Every Loc-RIB and every Adj-RIB-In is compared with an independent"
    yield "model when it is quiet. One thread."
    yield ""
    yield f"{data['machine']['cpu']}, kernel {data['machine']['kernel']}; {data['commit']}. Wall time may include that of others on the machine."
    yield ""
    yield "| speakers | prefixes | seed | failures | first convergence: UPDATEs | simulated s | with failures: UPDATEs | simulated s | CPU s | wall s | peak MiB | Loc-RIB entries compared | Adj-RIB-In paths compared | wrong | malformed |"
    yield "| ---: |" + " ---: |" * 14
    for r in data["runs"]:
        yield "| " + " | ".join(number(r.get(k)) for k in (
            "speakers", "prefixes", "seed", "failures", "start_updates", "start_s", "failure_updates", "failure_s", "cpu_s", "wall_s", "peak_mib", "entries", "paths", "wrong", "malformed")) + " |"
    yield ""


def addresses(data):
    m = data["machine"]
    yield "## Address management"
    yield ""
    yield "`ipam-bench`: a single etcd or SQLite file on the same machine and disk; both sides of a ratio are taken in turn in one run."
    yield "Goals are those of the ratio where there is one."
    yield ""
    yield f"{data['date']}; {m['cpus']} CPUs ({m['cpu']}), kernel {m['kernel']}; {data['commit']}."
    yield ""
    yield "| scenario | store | what | value | against | ratio | goal | |"
    yield "| --- | --- | --- | ---: | --- | ---: | --- | --- |"
    for r in data["rows"]:
        unit = f" {r['unit']}" if r["unit"] else ""
        against = f"{r['against']['what']}: {number(r['against']['value'])}{unit}" if r["against"] else ""
        ratio = f"{r['ratio']:.2f}" if r["ratio"] is not None else ""
        goal = f"≤ {r['limit']:g}" + (" ×" if r["against"] else "") if r["limit"] is not None else ""
        verdict = {None: "", True: "met", False: "**not met**"}[r["met"]]
        yield f"| {r['scenario']} | {r['store']} | {r['what']} | {number(r['value'])}{unit} | {against} | {ratio} | {goal} | {verdict} |"
    yield ""


def watches(data):
    m = data["machine"]
    yield "## The SQLite store: from a write to the event"
    yield ""
    yield f"`sqlite-bench`: {data['writers']} processes of {data['clients']} clients that write, {data['watchers']} processes that watch, one file; {data['seconds']} s."
    yield f"{m['processors']} CPUs ({m['cpu']}), kernel {m['kernel']}; {data['commit']}; {data['profile']} profile. {number(data['writes'])} writes, {data['missed']} events missed."
    yield f"A process with ten idle watches used {data['idle_cpu_s']} s of CPU in {data['idle_wall_s']} s."
    yield ""
    yield "| ms | median | p90 | p99 | p99.9 | most | goal | |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |"
    for key, what in (("acknowledgement", "from call to acknowledgement"), ("seen_after_call", "from call to event"), ("seen_after_acknowledgement", "from acknowledgement to event")):
        r = data[key]
        is_goal = key == "seen_after_acknowledgement"
        goal = f"p99 ≤ {data['goal_p99_ms']} | {'met' if data['met'] else '**not met**'}" if is_goal else " | "
        yield f"| {what} | " + " | ".join(number(r[k]) for k in ("p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms")) + f" | {goal} |"
    yield ""


def main():
    folder = sys.argv[1]
    lines = [INTRODUCTION]
    path = os.path.join(folder, "bgp.json")
    if os.path.exists(path):
        data = json.load(open(path))
        measured = [s for s in SCENARIOS if any(r["scen"] == s for r in data["runs"])]
        lines += ["## bgpd: goals", "", *environment(data), *goals(data), "", "## bgpd: each scenario", ""]
        for scen in measured:
            lines += scenario(data, scen)
    path = os.path.join(folder, "sim.json")
    if os.path.exists(path):
        lines += simulation(json.load(open(path)))
    path = os.path.join(folder, "ipam.json")
    if os.path.exists(path):
        lines += addresses(json.load(open(path)))
    path = os.path.join(folder, "sqlite.json")
    if os.path.exists(path):
        lines += watches(json.load(open(path)))
    print("\n".join(lines).rstrip())


if __name__ == "__main__":
    main()
