#!/usr/bin/env python3
"""Runs speakers and scenarios, interleaved, and keeps every run as JSON. Called by tests/bench/run.sh.

Each run starts the speaker afresh, runs bgpload against it, and stops it. Run 1 of every speaker comes before run 2 of
any, in an order that turns from run to run, so that what the machine does meanwhile meets all alike.
"""
import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time

from peers import PEERS, Spec
from scenarios import SCENARIOS

TOOL = os.environ.get("BGPLOAD", "target/release/bgpload")
# bgpload is one thread: where it was busy for most of a phase it was the bottleneck.
TOOL_BUSY = 0.8
# What one phase of bgpload may take.
PHASE_S = 120


def machine():
    info = open("/proc/cpuinfo").read()
    model = next((line.split(":", 1)[1].strip() for line in info.split("\n") if line.startswith("model name")), "?")
    memory = int(open("/proc/meminfo").readline().split()[1]) // 1024
    system = next((line.split("=", 1)[1].strip().strip('"') for line in open("/etc/os-release") if line.startswith("PRETTY_NAME=")), "?")
    return {"cpu": model, "cpus": os.cpu_count(), "memory_mib": memory, "kernel": platform.release(), "system": system}


def get(result, field):
    """A number of a result by its dotted name; None if the run has none."""
    for key in field.split("."):
        if not isinstance(result, dict) or key not in result:
            return None
        result = result[key]
    return result if isinstance(result, (int, float)) else None


def problems(result):
    """Why a run does not count: phases that did not end, wrong answers, lost sessions."""
    found = []
    if "error" in result:
        found.append("error: " + json.dumps(result["error"])[:300])
    for phase in ("load", "converge", "late_joiner", "withdraw", "node_loss"):
        for count in ("malformed", "unknown", "wrong_attributes"):
            n = get(result, f"{phase}.{count}")
            if n:
                found.append(f"{phase}: {n:g} {count}")
    if get(result, "session_losses"):
        found.append(f"{result['session_losses']} sessions lost")
    ok = get(result, "best_path_ok")
    if ok is not None and ok < 1:
        found.append(f"only {ok:.4%} of the best paths are right")
    return found


def notes(result):
    """Where the tool was busy for most of a phase, the time is an upper bound of the speaker's."""
    found = []
    for phase in ("load", "converge", "late_joiner", "withdraw"):
        tool, wall = get(result, f"{phase}.tool_cpu_s"), get(result, f"{phase}.all_s")
        if tool and wall and tool > TOOL_BUSY * wall:
            found.append(f"{phase}: the tool was busy for {tool / wall:.0%} of the time, which is an upper bound of the speaker's")
    return found


def add_derived(result):
    """Time per delivered prefix, to compare reflectors of different size."""
    params, converge = result.get("params", {}), result.get("converge")
    if result.get("scenario") == "mass" and converge:
        n, each = params["clients"], params["prefixes_each"]
        delivered = n * (n - 1) * each
        result["per_delivery"] = {"all_us": converge["all_s"] * 1e6 / delivered, "cpu_us": converge["cpu_s"] * 1e6 / delivered}


def one(name, scen, more=""):
    s = SCENARIOS[scen]
    args = s.args + more
    p = PEERS[name]()
    try:
        p.start(Spec(s.mode, s.senders, s.receivers, s.v6))
        cmd = [TOOL, "--brief", "--target", "127.0.0.1:1790", "--pid", str(p.proc.pid), "--mode", s.mode, "--label", name,
               "--timeout", str(PHASE_S)] + args.split()
        if "--quiet-ms" not in args:
            cmd += ["--quiet-ms", "1000"]
        out = subprocess.run(cmd, capture_output=True, text=True, timeout=PHASE_S * 6)
        result = json.loads(out.stdout) if out.stdout else {"error": out.stderr[-1000:]}
    except Exception as e:  # a run that failed is a result too
        result = {"error": repr(e)[-1500:]}
    finally:
        p.stop()
    add_derived(result)
    return result


def hostile(name, scen):
    """All hostile cases; a speaker that does not survive one is started again for the rest."""
    cases, error = [], None
    while True:
        result = one(name, scen, " --start %d" % len(cases))
        rows = result.get("cases", [])
        cases += rows
        if not rows or rows[-1]["verdict"] != "CRASH":
            error = result.get("error")
            break
    whole = {"scenario": "hostile", "cases_n": len(cases)}
    for key, verdict in (("right", "right"), ("allowed", "allowed"), ("differs", "differs"), ("crashes", "CRASH")):
        whole[key] = sum(c["verdict"] == verdict for c in cases)
    whole["not_right"] = [c for c in cases if c["verdict"] != "right"]
    if error:
        whole["error"] = error
    return whole


def save(path, data):
    text = json.dumps(data, separators=(",", ":")).replace('{"peer":', '\n{"peer":')  # one run a line
    with open(path + ".part", "w") as h:
        h.write(text + "\n")
    os.replace(path + ".part", path)


def say(scen, run, name, result, took):
    shown = ("load.all_s", "load.cpu_s", "mem.bytes_per_prefix", "converge.all_s", "converge.cpu_s", "latency.announce.p50_us", "right")
    values = ", ".join(f"{f} {get(result, f):g}" for f in shown if get(result, f) is not None)
    print(f"{time.strftime('%H:%M:%S')} {scen} run {run + 1} {name}: {took:.0f} s; {values}", flush=True)
    for problem in problems(result):
        print("   problem:", problem, flush=True)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--peers", default="tortie,bird,frr,openbgpd", help="of: " + ", ".join(PEERS))
    a.add_argument("--scenarios", default=",".join(SCENARIOS), help="of: " + ", ".join(SCENARIOS))
    a.add_argument("--runs", type=int, default=3)
    a.add_argument("--out", required=True, help="the JSON file")
    a.add_argument("--add", action="store_true", help="keep what the file holds of other scenarios and speakers")
    o = a.parse_args()
    peers, scenarios = o.peers.split(","), o.scenarios.split(",")
    unknown = [x for x in peers if x not in PEERS] + [x for x in scenarios if x not in SCENARIOS]
    if unknown:
        sys.exit("unknown: " + ", ".join(unknown))
    missing = [PEERS[p] for p in peers if not PEERS[p].is_available()]
    if missing:
        sys.exit("missing: " + ", ".join(p.name for p in missing) + "; apt-get install " + " ".join(p.package or p.binary for p in missing))
    data = {"runs": []}
    if o.add and os.path.exists(o.out):
        data = json.load(open(o.out))
        data["runs"] = [r for r in data["runs"] if not (r["scen"] in scenarios and r["peer"] in peers)]
    data["machine"] = machine()
    data["date"] = datetime.date.today().isoformat()
    data.setdefault("versions", {}).update({p: PEERS[p]().version() for p in peers})
    failed = False
    for scen in scenarios:
        for run in range(o.runs):
            turn = run % len(peers)
            for name in peers[turn:] + peers[:turn]:
                started = time.time()
                load = os.getloadavg()[0]
                result = (hostile if scen.startswith("H") else one)(name, scen)
                data["runs"].append({"peer": name, "scen": scen, "load1": load, "problems": problems(result), "notes": notes(result), "result": result})
                save(o.out, data)
                say(scen, run, name, result, time.time() - started)
                failed |= name == "tortie" and bool(problems(result))
            if scen.startswith("H"):
                break  # the answers do not vary
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
