#!/usr/bin/env python3
"""Benchmarks for a swarm-mode engine, driven only through the Docker Engine API.

Every subcommand prints one JSON object. Nothing here knows which engine is
behind the socket, so the same command line measures the real Docker Engine
and any re-implementation of it.

  swarmbench.py --host unix:///path/sock SUBCOMMAND [options]

The engine must already be a swarm manager (POST /swarm/init) and hold the
image named by --image: a root filesystem with busybox and its applets.

Optional, for cost accounting:
  --root-pid PID     (repeat) a daemon process; its descendants count as well
  --match REGEX      processes whose command line matches count too, with their
                     descendants (shims that were re-parented to init)
  --cpuacct DIR      a cgroup-v1 cpuacct directory that holds the daemon
Processes in another PID namespace than the harness are container payload and
are reported apart.

Standard library only. Python 3.8 or later.
"""
import argparse
import datetime
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.parse

API = "/v1.41"
LABEL = "swarmbench"


# ---------------------------------------------------------------- API client

class UnixConn(http.client.HTTPConnection):
    def __init__(self, path, timeout=120):
        super().__init__("localhost", timeout=timeout)
        self.unix_path = path

    def connect(self):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.settimeout(self.timeout)
        s.connect(self.unix_path)
        self.sock = s


class ApiError(Exception):
    def __init__(self, status, text):
        super().__init__("HTTP %d: %s" % (status, text))
        self.status = status


class Api:
    """One keep-alive connection; reconnects once if the server closed it."""

    def __init__(self, host):
        if host.startswith("unix://"):
            self.path, self.tcp = host[len("unix://"):], None
        else:
            self.path, self.tcp = None, urllib.parse.urlparse(host).netloc
        self.host = host
        self.conn = None

    def clone(self):
        return Api(self.host)

    def raw(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data is not None else {}
        for attempt in (0, 1):
            if self.conn is None:
                self.conn = UnixConn(self.path) if self.path else \
                    http.client.HTTPConnection(self.tcp, timeout=120)
            try:
                self.conn.request(method, API + path, body=data, headers=headers)
                resp = self.conn.getresponse()
                out = resp.read()
                return resp.status, out
            except (http.client.RemoteDisconnected, BrokenPipeError,
                    ConnectionResetError, http.client.CannotSendRequest):
                self.conn.close()
                self.conn = None
                if attempt:
                    raise

    def call(self, method, path, body=None):
        status, out = self.raw(method, path, body)
        if status >= 400:
            raise ApiError(status, out.decode(errors="replace")[:300])
        return json.loads(out) if out.strip() else None

    def get(self, path, **query):
        return self.call("GET", with_query(path, query))

    def post(self, path, body=None, **query):
        return self.call("POST", with_query(path, query), body)

    def delete(self, path, **query):
        return self.call("DELETE", with_query(path, query))


def with_query(path, query):
    if not query:
        return path
    q = {k: (json.dumps(v) if isinstance(v, (dict, list)) else v) for k, v in query.items()}
    return path + "?" + urllib.parse.urlencode(q)


# ---------------------------------------------------------------- statistics

def quantile(values, q):
    v = sorted(values)
    if not v:
        return None
    k = (len(v) - 1) * q
    lo = int(k)
    hi = min(lo + 1, len(v) - 1)
    return v[lo] + (v[hi] - v[lo]) * (k - lo)


def summary(values, digits=4):
    if not values:
        return {"n": 0}
    r = lambda x: round(x, digits)
    return {"n": len(values), "median": r(quantile(values, 0.5)), "min": r(min(values)),
            "max": r(max(values)), "p90": r(quantile(values, 0.9)), "p99": r(quantile(values, 0.99))}


def cpu_ticks():
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:]]
    return sum(v[:8]), v[3] + v[4], v[7]


class Noise:
    """How busy the machine was, and what the daemon itself used."""

    def __init__(self, args):
        self.args = args
        self.t0 = time.monotonic()
        self.c0 = cpu_ticks()
        self.a0 = read_cpuacct(args)
        self.load0 = os.getloadavg()[0]

    def done(self):
        c1 = cpu_ticks()
        total = max(1, c1[0] - self.c0[0])
        out = {"wall_s": round(time.monotonic() - self.t0, 2),
               "machine_busy": round(1 - (c1[1] - self.c0[1]) / total, 3),
               "steal": round((c1[2] - self.c0[2]) / total, 3),
               "load1_start": round(self.load0, 2), "load1_end": round(os.getloadavg()[0], 2)}
        a1 = read_cpuacct(self.args)
        if a1 is not None and self.a0 is not None:
            out["daemon_cpu_s"] = round(a1 - self.a0, 3)
        return out


def read_cpuacct(args):
    if not args.cpuacct:
        return None
    try:
        with open(os.path.join(args.cpuacct, "cpuacct.usage")) as f:
            return int(f.read()) / 1e9
    except OSError:
        return None


# ---------------------------------------------------------------- services

_seq = [0]


def fresh_name(prefix):
    _seq[0] += 1
    return "%s-%d-%d" % (prefix, os.getpid(), _seq[0])


def service_spec(args, name, replicas, command=None, **over):
    spec = {
        "Name": name,
        "Labels": {LABEL: "1"},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": args.image,
                "Command": command or ["sleep", "100000"],
                "StopSignal": "SIGKILL",
                "Init": False,
            },
            "RestartPolicy": {"Condition": "any", "Delay": 0, "MaxAttempts": 0},
            "ForceUpdate": 0,
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
    }
    if getattr(args, "network", None):
        spec["TaskTemplate"]["Networks"] = [{"Target": args.network}]
    spec.update(over)
    return spec


def tasks_of(api, service, desired="running"):
    f = {"service": [service]}
    if desired:
        f["desired-state"] = [desired]
    return api.get("/tasks", filters=f)


def running(tasks, desired="running"):
    return [t for t in tasks if t["Status"]["State"] == "running" and t["DesiredState"] == desired]


def interval_for(n):
    return 0.005 if n <= 1 else 0.01 if n <= 10 else 0.025 if n <= 50 else 0.05


def wait_until(what, fn, interval, timeout):
    end = time.monotonic() + timeout
    while True:
        v = fn()
        now = time.monotonic()
        if v:
            return v, now
        if now > end:
            raise TimeoutError("waited %ds for %s" % (timeout, what))
        time.sleep(interval)


def wait_running(api, service, n, args):
    state = {}

    def check():
        r = running(tasks_of(api, service))
        if r and "first" not in state:
            state["first"] = time.monotonic()
        state["count"] = len(r)
        return r if len(r) == n else None
    try:
        r, t = wait_until("%d running tasks of %s" % (n, service), check, interval_for(n), args.timeout)
    except TimeoutError as e:
        bad = [t for t in tasks_of(api, service, None) if t["Status"].get("Err")]
        raise TimeoutError("%s; have %s; %s" % (e, state.get("count"),
                                                [t["Status"]["Err"] for t in bad[:3]]))
    return r, t, state.get("first", t)


def containers_of(api, name):
    return api.get("/containers/json", all="1",
                   filters={"label": ["com.docker.swarm.service.name=" + name]})


def remove_service(api, sid, name, args, interval=0.05):
    """Deletes a service; seconds until its last container is gone."""
    t0 = time.monotonic()
    try:
        api.delete("/services/" + sid)
    except ApiError as e:
        if e.status != 404:
            raise
    _, t = wait_until("containers of %s to go" % name,
                      lambda: not containers_of(api, name), interval, args.timeout)
    return t - t0


def update_service(api, sid, change, **query):
    s = api.get("/services/" + sid)
    spec = s["Spec"]
    change(spec)
    api.post("/services/%s/update" % sid, spec, version=s["Version"]["Index"], **query)


def each_thread(n_threads, items, make, fn):
    """Runs fn(ctx, item) over items on n threads; latencies, wall seconds."""
    lock = threading.Lock()
    it = iter(items)
    lat, errs = [], []

    def work():
        ctx = make()
        while True:
            with lock:
                item = next(it, None)
            if item is None:
                return
            t = time.monotonic()
            try:
                fn(ctx, item)
            except Exception as e:                      # counted, not hidden
                with lock:
                    errs.append(str(e)[:200])
                continue
            d = time.monotonic() - t
            with lock:
                lat.append(d)
    t0 = time.monotonic()
    ts = [threading.Thread(target=work) for _ in range(n_threads)]
    [t.start() for t in ts]
    [t.join() for t in ts]
    return lat, time.monotonic() - t0, errs


def make_zero_services(api, args, count):
    ids, lock = [], threading.Lock()
    tag = fresh_name("zero")

    def one(a, i):
        r = a.post("/services/create", service_spec(args, "%s-%d" % (tag, i), 0))
        with lock:
            ids.append(r["ID"])
    lat, wall, errs = each_thread(8, range(count), api.clone, one)
    if errs:
        raise RuntimeError("creating services: %d errors, first: %s" % (len(errs), errs[0]))
    return ids, lat, wall


def drop(api, kind, ids):
    return each_thread(8, ids, api.clone, lambda a, i: a.delete("/%s/%s" % (kind, i)))


# ---------------------------------------------------------------- processes

def proc_table():
    out = {}
    for d in os.listdir("/proc"):
        if not d.isdigit():
            continue
        try:
            with open("/proc/%s/stat" % d) as f:
                s = f.read()
            with open("/proc/%s/cmdline" % d, "rb") as f:
                cmd = f.read().replace(b"\0", b" ").decode(errors="replace").strip()
            ns = os.readlink("/proc/%s/ns/pid" % d)
        except OSError:
            continue
        comm = s[s.index("(") + 1:s.rindex(")")]
        rest = s[s.rindex(")") + 2:].split()
        out[int(d)] = {"ppid": int(rest[1]), "comm": comm, "cmd": cmd, "ns": ns, "state": rest[0]}
    return out


def memory_of(pid):
    m = {}
    with open("/proc/%d/smaps_rollup" % pid) as f:
        for line in f:
            k, _, v = line.partition(":")
            if k in ("Rss", "Pss", "Private_Dirty", "Private_Clean"):
                m[k] = int(v.split()[0])
    m["Uss"] = m.pop("Private_Dirty", 0) + m.pop("Private_Clean", 0)
    with open("/proc/%d/status" % pid) as f:
        for line in f:
            k, _, v = line.partition(":")
            if k in ("RssAnon", "RssShmem", "RssFile"):
                m[k] = int(v.split()[0])
    try:
        m["exe"] = os.readlink("/proc/%d/exe" % pid)
    except OSError:
        m["exe"] = "?"
    return m


def footprint_now(args):
    table = proc_table()
    me = os.readlink("/proc/self/ns/pid")
    kids = {}
    for p, v in table.items():
        kids.setdefault(v["ppid"], []).append(p)
    seeds = list(args.root_pid or [])
    if args.match:
        rx = re.compile(args.match)
        mine = os.getpid()
        seeds += [p for p, v in table.items() if rx.search(v["cmd"]) and p != mine
                  and "swarmbench.py" not in v["cmd"]]
    skip, p = set(), os.getpid()                        # the harness and its callers
    while p in table:
        skip.add(p)
        p = table[p]["ppid"]
    seen, todo = set(), list(seeds)
    while todo:
        p = todo.pop()
        if p in seen or p in skip or p not in table:
            continue
        seen.add(p)
        todo += kids.get(p, [])
    groups, payload = {}, {"count": 0, "pss_kib": 0, "rss_kib": 0}
    anon, by_file = 0, {}
    for p in seen:
        try:
            m = memory_of(p)
        except (OSError, KeyError):
            continue
        if table[p]["ns"] != me:
            payload["count"] += 1
            payload["pss_kib"] += m.get("Pss", 0)
            payload["rss_kib"] += m.get("Rss", 0)
            continue
        anon += m.get("RssAnon", 0) + m.get("RssShmem", 0)
        by_file[m["exe"]] = max(by_file.get(m["exe"], 0), m.get("RssFile", 0))
        g = groups.setdefault(table[p]["comm"], {"count": 0, "rss_kib": 0, "pss_kib": 0,
                                                 "uss_kib": 0, "threads": 0})
        g["count"] += 1
        g["rss_kib"] += m.get("Rss", 0)
        g["pss_kib"] += m.get("Pss", 0)
        g["uss_kib"] += m["Uss"]
        try:
            g["threads"] += len(os.listdir("/proc/%d/task" % p))
        except OSError:
            pass
    tot = {k: sum(g[k] for g in groups.values()) for k in ("count", "rss_kib", "pss_kib", "uss_kib", "threads")}
    # PSS depends on who else on the machine maps the same binaries. This does not:
    # private memory of every process plus each program's file pages counted once.
    tot["own_kib"] = anon + sum(by_file.values())
    tot["anon_kib"] = anon
    return {"total": tot, "by_name": groups, "payload": payload}


# ---------------------------------------------------------------- subcommands

def cmd_deploy_latency(api, args):
    out = {}
    for n in args.replicas:
        runs = args.runs or (10 if n == 1 else 5 if n <= 10 else 3)
        noise = Noise(args)
        all_t, first_t, down, stamps, post = [], [], [], [], []
        for _ in range(runs):
            name = fresh_name("dep%d" % n)
            t0, w0 = time.monotonic(), time.time()
            sid = api.post("/services/create", service_spec(args, name, n))["ID"]
            post.append(time.monotonic() - t0)
            tasks, t, first = wait_running(api, name, n, args)
            all_t.append(t - t0)
            first_t.append(first - t0)
            ts = [parse_time(x["Status"].get("Timestamp")) for x in tasks]
            if all(ts):
                stamps.append(max(ts) - w0)
            down.append(remove_service(api, sid, name, args))
            time.sleep(args.settle)
        out[str(n)] = {"all_running_s": summary(all_t), "first_running_s": summary(first_t),
                       "all_running_by_status_timestamp_s": summary(stamps),
                       "create_post_s": summary(post), "removed_s": summary(down),
                       "runs_s": [round(x, 3) for x in all_t],
                       "tasks_per_s": round(n / quantile(all_t, 0.5), 2), "noise": noise.done()}
    return out


def parse_time(s):
    if not s:
        return None
    m = re.match(r"(\d+-\d+-\d+T\d+:\d+:\d+)(\.\d+)?(Z|[+-]\d\d:\d\d)$", s)
    if not m:
        return None
    z = "+00:00" if m.group(3) == "Z" else m.group(3)
    base = datetime.datetime.fromisoformat(m.group(1) + z).timestamp()
    return base + float(m.group(2) or 0)


def cmd_heal_latency(api, args):
    out = {}
    for label, delay in (("restart_delay_0", 0), ("restart_delay_default", None)):
        if label == "restart_delay_default" and args.no_default_delay:
            continue
        runs = args.runs or (10 if delay == 0 else 3)
        noise = Noise(args)
        name = fresh_name("heal")
        spec = service_spec(args, name, args.replicas_n)
        if delay is None:
            del spec["TaskTemplate"]["RestartPolicy"]
        sid = api.post("/services/create", spec)["ID"]
        wait_running(api, name, args.replicas_n, args)
        lat, detect = [], []
        for _ in range(runs):
            time.sleep(args.settle)
            victim = running(tasks_of(api, name))[0]
            cid = victim["Status"]["ContainerStatus"]["ContainerID"]
            pid = api.get("/containers/%s/json" % cid)["State"]["Pid"]
            old = {t["ID"] for t in tasks_of(api, name, None)}
            seen = {}
            t0 = time.monotonic()
            os.kill(pid, signal.SIGKILL)

            def check():
                ts = tasks_of(api, name, None)
                new = [t for t in ts if t["ID"] not in old]
                if new and "d" not in seen:
                    seen["d"] = time.monotonic()
                ok = [t for t in new if t["Status"]["State"] == "running"]
                return ok if ok and len(running(ts)) == args.replicas_n else None
            _, t = wait_until("replacement", check, 0.005, args.timeout)
            lat.append(t - t0)
            detect.append(seen.get("d", t) - t0)
        remove_service(api, sid, name, args)
        out[label] = {"kill_to_replacement_running_s": summary(lat),
                      "kill_to_new_task_object_s": summary(detect),
                      "runs_s": [round(x, 3) for x in lat], "noise": noise.done()}
    return out


def cmd_scale(api, args):
    runs = args.runs or 3
    noise = Noise(args)
    ups, downs, gone = [], [], []
    hi = args.to
    for _ in range(runs):
        name = fresh_name("scale")
        sid = api.post("/services/create", service_spec(args, name, 1))["ID"]
        wait_running(api, name, 1, args)
        time.sleep(args.settle)
        set_n = lambda n: (lambda s: s["Mode"]["Replicated"].__setitem__("Replicas", n))
        t0 = time.monotonic()
        update_service(api, sid, set_n(hi))
        _, t, _ = wait_running(api, name, hi, args)
        ups.append(t - t0)
        time.sleep(args.settle)
        t0 = time.monotonic()
        update_service(api, sid, set_n(1))

        def one_left():
            r = api.get("/containers/json", filters={"label": ["com.docker.swarm.service.name=" + name]})
            return len(r) == 1
        _, t = wait_until("one running container", one_left, 0.025, args.timeout)
        downs.append(t - t0)
        _, t = wait_until("one container", lambda: len(containers_of(api, name)) == 1, 0.025, args.timeout)
        gone.append(t - t0)
        remove_service(api, sid, name, args)
        time.sleep(args.settle)
    return {"from_1_to": hi, "up_s": summary(ups), "down_one_running_s": summary(downs),
            "down_one_container_left_s": summary(gone), "up_runs_s": [round(x, 3) for x in ups],
            "noise": noise.done()}


def cmd_rolling_update(api, args):
    out = {}
    for order in args.order:
        runs = args.runs or 3
        noise = Noise(args)
        ready, completed, settled = [], [], []
        for _ in range(runs):
            name = fresh_name("roll")
            cfg = {"Parallelism": args.parallelism, "Delay": 0, "Order": order,
                   "FailureAction": "pause", "Monitor": 1000000000, "MaxFailureRatio": 0}
            sid = api.post("/services/create", service_spec(args, name, args.replicas_n,
                                                           UpdateConfig=cfg))["ID"]
            wait_running(api, name, args.replicas_n, args)
            time.sleep(args.settle)
            t0 = time.monotonic()

            def change(s):
                s["TaskTemplate"]["ForceUpdate"] = 1
                s["TaskTemplate"]["ContainerSpec"]["Env"] = ["GENERATION=2"]
            update_service(api, sid, change)

            def all_new():
                ts = running(tasks_of(api, name))
                return len(ts) == args.replicas_n and all(
                    t["Spec"]["ContainerSpec"].get("Env") == ["GENERATION=2"] for t in ts)
            _, t = wait_until("update", all_new, 0.025, args.timeout)
            ready.append(t - t0)
            _, t = wait_until("old containers to stop", lambda: len(api.get("/containers/json", filters={
                "label": ["com.docker.swarm.service.name=" + name]})) == args.replicas_n, 0.025, args.timeout)
            settled.append(t - t0)
            _, t = wait_until("UpdateStatus completed", lambda: api.get("/services/" + sid).get(
                "UpdateStatus", {}).get("State") == "completed", 0.025, args.timeout)
            completed.append(t - t0)
            remove_service(api, sid, name, args)
            time.sleep(args.settle)
        out[order] = {"all_replicas_new_and_running_s": summary(ready), "old_stopped_s": summary(settled),
                      "status_completed_s (monitor 1 s)": summary(completed),
                      "runs_s": [round(x, 3) for x in ready], "noise": noise.done()}
    return {"replicas": args.replicas_n, "parallelism": args.parallelism, "orders": out}


def cmd_api_write_rate(api, args):
    out = {}
    for kind in args.kind:
        for threads, count in ((1, args.count), (8, args.count * 2)):
            tag = fresh_name("w")
            ids, lock = [], threading.Lock()

            def one(a, i):
                if kind == "secrets":
                    r = a.post("/secrets/create", {"Name": "%s-%d" % (tag, i), "Data": "aGVsbG8=",
                                                   "Labels": {LABEL: "1"}})
                else:
                    r = a.post("/services/create", service_spec(args, "%s-%d" % (tag, i), 0))
                with lock:
                    ids.append(r["ID"])
            noise = Noise(args)
            lat, wall, errs = each_thread(threads, range(count), api.clone, one)
            n = noise.done()
            dlat, dwall, derrs = drop(api, kind, ids)
            out["%s_x%d" % (kind, threads)] = {
                "ops": len(lat), "errors": len(errs), "first_error": errs[0] if errs else None,
                "ops_per_s": round(len(lat) / wall, 1), "latency_s": summary(lat, 5),
                "delete_x8_ops_per_s": round(len(dlat) / dwall, 1) if dlat else None, "noise": n}
    return out


def cmd_api_read_rate(api, args):
    ids, clat, cwall = make_zero_services(api, args, args.services)
    out = {"services": args.services, "create_x8_ops_per_s": round(len(ids) / cwall, 1)}
    # Task objects without containers: a constraint no node meets keeps them pending.
    name = fresh_name("pend")
    spec = service_spec(args, name, args.tasks)
    spec["TaskTemplate"]["Placement"] = {"Constraints": ["node.labels.swarmbench == none"]}
    t0 = time.monotonic()
    pend = api.post("/services/create", spec)["ID"]
    _, t = wait_until("%d task objects" % args.tasks,
                      lambda: len(tasks_of(api, name, None)) >= args.tasks, 0.1, args.timeout)
    out["pending_tasks"] = args.tasks
    out["pending_tasks_visible_s"] = round(t - t0, 3)
    time.sleep(2)
    try:
        paths = [("GET /services", "/services", args.count), ("GET /tasks", "/tasks", args.count),
                 ("GET /nodes", "/nodes", args.count * 10),
                 ("GET /services?status=true", "/services?status=true", args.count),
                 ("GET /services/{id}", "/services/" + ids[len(ids) // 2], args.count * 10),
                 ("GET /_ping", "/_ping", args.count * 10)]
        for label, path, count in paths:
            for threads in (1, 8):
                size = [0]

                def one(a, i):
                    st, body = a.raw("GET", path)
                    if st != 200:
                        raise ApiError(st, body.decode(errors="replace")[:200])
                    size[0] = len(body)
                noise = Noise(args)
                lat, wall, errs = each_thread(threads, range(count), api.clone, one)
                out["%s x%d" % (label, threads)] = {
                    "bytes": size[0], "ops_per_s": round(len(lat) / wall, 1), "latency_s": summary(lat, 5),
                    "errors": len(errs), "first_error": errs[0] if errs else None, "noise": noise.done()}
    finally:
        api.delete("/services/" + pend)
        dlat, dwall, _ = drop(api, "services", ids)
        out["delete_x8_ops_per_s"] = round(len(dlat) / dwall, 1) if dlat else None
    return out


def cmd_footprint(api, args):
    out = {}
    if "now" in args.phase:
        out["now"] = footprint_now(args)
    if "tasks" in args.phase:
        time.sleep(2)
        out["idle"] = footprint_now(args)
        name = fresh_name("foot")
        sid = api.post("/services/create", service_spec(args, name, 1))["ID"]
        for n in args.replicas:
            if n != 1:
                update_service(api, sid, lambda s: s["Mode"]["Replicated"].__setitem__("Replicas", n))
            wait_running(api, name, n, args)
            time.sleep(args.rest)
            out["tasks_%d" % n] = footprint_now(args)
            a = read_cpuacct(args)
            if a is not None:
                t = time.monotonic()
                time.sleep(10)
                out["tasks_%d" % n]["steady_cpu_fraction"] = round(
                    (read_cpuacct(args) - a) / (time.monotonic() - t), 4)
        remove_service(api, sid, name, args)
        time.sleep(args.rest)
        out["after_removal"] = footprint_now(args)
    if "services" in args.phase:
        time.sleep(2)
        out["before_services"] = footprint_now(args)
        ids, _, _ = make_zero_services(api, args, args.services)
        time.sleep(args.rest)
        out["services_%d" % args.services] = footprint_now(args)
        drop(api, "services", ids)
    return out


def cmd_container_start(api, args):
    out = {}
    runs = args.runs or 20
    for net in args.netmode:
        noise = Noise(args)
        create, start, total, stop = [], [], [], []
        for _ in range(runs):
            body = {"Image": args.image, "Cmd": ["sleep", "100000"], "Labels": {LABEL: "1"},
                    "HostConfig": {"NetworkMode": net}}
            t0 = time.monotonic()
            cid = api.post("/containers/create", body)["Id"]
            t1 = time.monotonic()
            api.post("/containers/%s/start" % cid)
            t2 = time.monotonic()
            wait_until("running", lambda: api.get("/containers/%s/json" % cid)["State"]["Running"], 0.002, 60)
            t3 = time.monotonic()
            create.append(t1 - t0)
            start.append(t2 - t1)
            total.append(t3 - t0)
            api.delete("/containers/" + cid, force="1", v="1")
            stop.append(time.monotonic() - t3)
        whole = []
        for _ in range(runs):
            body = {"Image": args.image, "Cmd": ["true"], "Labels": {LABEL: "1"},
                    "HostConfig": {"NetworkMode": net}}
            t0 = time.monotonic()
            cid = api.post("/containers/create", body)["Id"]
            api.post("/containers/%s/start" % cid)
            api.post("/containers/%s/wait" % cid)
            api.delete("/containers/" + cid, force="1")
            whole.append(time.monotonic() - t0)
        out[net] = {"create_start_running_s": summary(total), "create_s": summary(create),
                    "start_s": summary(start), "force_remove_s": summary(stop),
                    "run_true_wait_remove_s": summary(whole), "noise": noise.done()}
    return out


def cmd_exec_rate(api, args):
    """exec of `true` in the container of a running task: create + start + output end."""
    runs = args.runs or 20
    name = fresh_name("exec")
    sid = api.post("/services/create", service_spec(args, name, 1))["ID"]
    tasks, _, _ = wait_running(api, name, 1, args)
    cid = tasks[0]["Status"]["ContainerStatus"]["ContainerID"]
    lat = []
    noise = Noise(args)
    try:
        for _ in range(runs):
            t0 = time.monotonic()
            e = api.post("/containers/%s/exec" % cid, {"Cmd": ["true"], "AttachStdout": True})["Id"]
            a = api.clone()
            status, out = a.raw("POST", "/exec/%s/start" % e, {"Detach": False, "Tty": False})
            if status >= 400:
                raise ApiError(status, out.decode(errors="replace")[:300])
            lat.append(time.monotonic() - t0)
    finally:
        remove_service(api, sid, name, args)
    return {"exec_true_s": summary(lat), "noise": noise.done()}


# ---------------------------------------------------------------- load under update

SERVER = ("httpd -f -p 80 -h /www & trap 'sleep %s; exit 0' TERM; while :; do wait; sleep 0.2; done")


def http_service(args, name, replicas, order, drain, ports=None, networks=None, endpoint="vip"):
    spec = service_spec(args, name, replicas, ["sh", "-c", SERVER % drain])
    c = spec["TaskTemplate"]["ContainerSpec"]
    del c["StopSignal"]
    c["StopGracePeriod"] = int((drain + 8) * 1e9)
    spec["UpdateConfig"] = {"Parallelism": 1, "Delay": 0, "Order": order, "FailureAction": "pause",
                            "Monitor": 1000000000, "MaxFailureRatio": 0}
    spec["EndpointSpec"] = {"Mode": endpoint}
    if ports:
        spec["EndpointSpec"]["Ports"] = ports
    if networks:
        spec["TaskTemplate"]["Networks"] = [{"Target": n} for n in networks]
    return spec


def dns_lookup(name, server="127.0.0.11", timeout=2):
    q = struct.pack(">HHHHHH", os.getpid() & 0xffff, 0x0100, 1, 0, 0, 0)
    q += b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0" + struct.pack(">HH", 1, 1)
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(timeout)
    try:
        s.sendto(q, (server, 53))
        r = s.recv(4096)
    finally:
        s.close()
    n = struct.unpack(">H", r[6:8])[0]
    i = 12
    while r[i]:
        i += r[i] + 1
    i += 5
    out = []
    for _ in range(n):
        if r[i] & 0xc0 == 0xc0:
            i += 2
        else:
            while r[i]:
                i += r[i] + 1
            i += 1
        typ, _, _, ln = struct.unpack(">HHIH", r[i:i + 10])
        i += 10
        if typ == 1 and ln == 4:
            out.append(socket.inet_ntoa(r[i:i + 4]))
        i += ln
    return out


def cmd_loadgen(api, args):
    """Constant-rate HTTP GETs until a line arrives on stdin. Targets: HOST:PORT, or dns:NAME:PORT."""
    stop = threading.Event()
    records, lock = [], threading.Lock()
    target = args.target
    dynamic = [[]]

    def pick(k):
        if target == "stdin":
            return dynamic[0][k % len(dynamic[0])] if dynamic[0] else None
        if target.startswith("dns:"):
            _, name, port = target.split(":")
            ips = dns_lookup(name)
            return (ips[0], int(port)) if ips else None
        h, p = target.rsplit(":", 1)
        return (h, int(p))

    def worker(w):
        period = args.workers / args.rate
        nxt = time.monotonic() + w * period / args.workers
        conn, k = None, w
        while not stop.is_set():
            d = nxt - time.monotonic()
            if d > 0:
                time.sleep(d)
            elif d < -1:
                nxt = time.monotonic()
            nxt += period
            k += 1
            t0, w0, err = time.monotonic(), time.time(), None
            try:
                if conn is None:
                    a = pick(k)
                    if a is None:
                        raise OSError("no address")
                    conn = http.client.HTTPConnection(a[0], a[1], timeout=args.req_timeout)
                conn.request("GET", "/index.html", headers={} if args.keepalive else {"Connection": "close"})
                r = conn.getresponse()
                body = r.read()
                if r.status != 200 or not body:
                    err = "status %d" % r.status
                if not args.keepalive or r.will_close:
                    conn.close()
                    conn = None
            except Exception as e:
                err = type(e).__name__ + ": " + str(e)[:60]
                if conn:
                    conn.close()
                conn = None
            with lock:
                records.append((w0, time.monotonic() - t0, err))

    ts = [threading.Thread(target=worker, args=(i,), daemon=True) for i in range(args.workers)]
    started = False
    for line in sys.stdin:
        line = line.strip()
        if line.startswith("targets "):
            dynamic[0] = [(h, int(p)) for h, p in (x.rsplit(":", 1) for x in line.split()[1:])]
        elif line == "go":
            started = True
            [t.start() for t in ts]
        elif line == "stop":
            break
    stop.set()
    if started:
        [t.join(args.req_timeout + 1) for t in ts]
    records.sort()
    fails = [r for r in records if r[2]]
    gap = last = 0.0
    ok = [r[0] + r[1] for r in records if not r[2]]
    ok.sort()
    for x in ok:
        if last:
            gap = max(gap, x - last)
        last = x
    kinds = {}
    for r in fails:
        kinds[r[2]] = kinds.get(r[2], 0) + 1
    return {"requests": len(records), "failed": len(fails), "errors": kinds,
            "longest_gap_between_successes_s": round(gap, 4),
            "latency_ok_s": summary([r[1] for r in records if not r[2]], 5)}


def cmd_update_under_load(api, args):
    """Modes: ingress, vip, dnsrr, host-fixed (1 replica, stop-first), host-dynamic."""
    out = {"mode": args.mode, "rate": args.rate, "drain_s": args.drain, "runs": []}
    for _ in range(args.runs or 3):
        name = fresh_name("web")
        net = client = None
        ports, replicas, order, prefix = None, args.replicas_n, args.update_order, []
        if args.mode == "ingress":
            ports = [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": args.port, "PublishMode": "ingress"}]
            target = "127.0.0.1:%d" % args.port
        elif args.mode == "host-fixed":
            ports = [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": args.port, "PublishMode": "host"}]
            target, replicas, order = "127.0.0.1:%d" % args.port, 1, "stop-first"
        elif args.mode == "host-dynamic":
            ports = [{"Protocol": "tcp", "TargetPort": 80, "PublishMode": "host"}]
            target = "stdin"
        else:
            net = api.post("/networks/create", {"Name": name + "-net", "Driver": "overlay", "Attachable": True,
                                                "CheckDuplicate": True})["Id"]
            target = "dns:%s:80" % name
        sid = api.post("/services/create", http_service(
            args, name, replicas, order, args.drain, ports, [net] if net else None,
            "dnsrr" if args.mode == "dnsrr" else "vip"))["ID"]
        lg = None
        try:
            wait_running(api, name, replicas, args)
            if net:
                client = api.post("/containers/create", {
                    "Image": args.image, "Cmd": ["sleep", "100000"],
                    "HostConfig": {"NetworkMode": name + "-net"}})["Id"]
                api.post("/containers/%s/start" % client)
                pid = api.get("/containers/%s/json" % client)["State"]["Pid"]
                prefix = ["nsenter", "-t", str(pid), "-n"]
            cmd = prefix + [sys.executable, os.path.abspath(__file__), "--host", args.host, "loadgen",
                            "--target", target, "--rate", str(args.rate), "--workers", str(args.workers),
                            "--req-timeout", str(args.req_timeout)] + (["--keepalive"] if args.keepalive else [])
            lg = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

            def say(s):
                lg.stdin.write(s + "\n")
                lg.stdin.flush()

            def host_targets():
                a = []
                for t in running(tasks_of(api, name)):
                    for p in t["Status"].get("PortStatus", {}).get("Ports", []):
                        a.append("127.0.0.1:%d" % p["PublishedPort"])
                return sorted(set(a))       # the engine lists a port once per address family
            known = []
            if target == "stdin":
                known, _ = wait_until("ports", lambda: (lambda a: a if len(a) == replicas else None)(host_targets()),
                                      0.02, 30)
                say("targets " + " ".join(known))
            time.sleep(1)
            say("go")
            time.sleep(args.before)
            t0 = time.monotonic()

            def change(s):
                s["TaskTemplate"]["ForceUpdate"] = 1
                s["TaskTemplate"]["ContainerSpec"]["Env"] = ["GENERATION=2"]
            update_service(api, sid, change)

            def finished():
                nonlocal known
                ts = running(tasks_of(api, name))
                if target == "stdin":
                    a = host_targets()
                    if a != known and a:
                        known = a
                        say("targets " + " ".join(a))
                return len(ts) == replicas and all(
                    t["Spec"]["ContainerSpec"].get("Env") == ["GENERATION=2"] for t in ts)
            _, t = wait_until("update", finished, 0.02, args.timeout)
            time.sleep(args.drain + 2)
            say("stop")
            o, _ = lg.communicate(timeout=60)
            r = json.loads(o)["result"]
            r["update_s"] = round(t - t0, 3)
            out["runs"].append(r)
        finally:
            if lg and lg.poll() is None:
                lg.kill()
            if client:
                api.delete("/containers/" + client, force="1")
            remove_service(api, sid, name, args)
            if net:
                for _ in range(50):
                    try:
                        api.delete("/networks/" + net)
                        break
                    except ApiError:
                        time.sleep(0.2)
        time.sleep(args.settle)
    out["failed"] = [r["failed"] for r in out["runs"]]
    out["requests"] = [r["requests"] for r in out["runs"]]
    out["update_s"] = summary([r["update_s"] for r in out["runs"]])
    out["longest_gap_s"] = summary([r["longest_gap_between_successes_s"] for r in out["runs"]])
    return out


def cmd_cleanup(api, args):
    n = 0
    for kind in ("services", "secrets"):
        ids = [x["ID"] for x in api.get("/" + kind, filters={"label": [LABEL]})]
        drop(api, kind, ids)
        n += len(ids)
    for c in api.get("/containers/json", all="1", filters={"label": [LABEL]}):
        api.delete("/containers/" + c["Id"], force="1")
        n += 1
    return {"removed": n}


def ints(s):
    return [int(x) for x in s.split(",")]


def words(s):
    return s.split(",")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--host", default="unix:///var/run/docker.sock")
    p.add_argument("--image", default="bench:latest")
    p.add_argument("--root-pid", type=int, action="append")
    p.add_argument("--match")
    p.add_argument("--cpuacct")
    p.add_argument("--timeout", type=float, default=180)
    p.add_argument("--settle", type=float, default=0.5, help="pause between runs, seconds")
    p.add_argument("--runs", type=int)
    p.add_argument("--label", help="free text, copied into the result")
    sub = p.add_subparsers(dest="cmd", required=True)

    def add(name, fn, **kw):
        s = sub.add_parser(name, help=fn.__doc__, **kw)
        s.set_defaults(fn=fn)
        return s
    s = add("deploy-latency", cmd_deploy_latency)
    s.add_argument("--replicas", type=ints, default=[1, 10, 50, 100])
    s.add_argument("--network")
    s = add("heal-latency", cmd_heal_latency)
    s.add_argument("--replicas", dest="replicas_n", type=int, default=3)
    s.add_argument("--no-default-delay", action="store_true")
    s.add_argument("--network")
    s = add("scale", cmd_scale)
    s.add_argument("--to", type=int, default=50)
    s.add_argument("--network")
    s = add("rolling-update", cmd_rolling_update)
    s.add_argument("--replicas", dest="replicas_n", type=int, default=20)
    s.add_argument("--parallelism", type=int, default=4)
    s.add_argument("--order", type=words, default=["stop-first", "start-first"])
    s.add_argument("--network")
    s = add("api-write-rate", cmd_api_write_rate)
    s.add_argument("--kind", type=words, default=["secrets", "services"])
    s.add_argument("--count", type=int, default=500)
    s = add("api-read-rate", cmd_api_read_rate)
    s.add_argument("--services", type=int, default=1000)
    s.add_argument("--tasks", type=int, default=1000)
    s.add_argument("--count", type=int, default=100)
    s = add("footprint", cmd_footprint)
    s.add_argument("--phase", type=words, default=["tasks", "services"])
    s.add_argument("--replicas", type=ints, default=[1, 50, 100])
    s.add_argument("--services", type=int, default=1000)
    s.add_argument("--rest", type=float, default=5)
    s = add("container-start", cmd_container_start)
    s.add_argument("--netmode", type=words, default=["none", "bridge"])
    s = add("exec-rate", cmd_exec_rate)
    s = add("update-under-load", cmd_update_under_load)
    s.add_argument("--mode", choices=["ingress", "vip", "dnsrr", "host-fixed", "host-dynamic"], default="ingress")
    s.add_argument("--replicas", dest="replicas_n", type=int, default=4)
    s.add_argument("--update-order", default="start-first")
    s.add_argument("--port", type=int, default=18080)
    s.add_argument("--drain", type=float, default=1)
    s.add_argument("--before", type=float, default=2)
    s = add("cleanup", cmd_cleanup)
    s2 = add("loadgen", cmd_loadgen)
    s2.add_argument("--target", required=True)
    for x in (s2, sub.choices["update-under-load"]):
        x.add_argument("--rate", type=float, default=300)
        x.add_argument("--workers", type=int, default=8)
        x.add_argument("--keepalive", action="store_true")
        x.add_argument("--req-timeout", type=float, default=3)
    args = p.parse_args()
    api = Api(args.host)
    noise = Noise(args)
    result = args.fn(api, args)
    doc = {"measurement": args.cmd, "argv": sys.argv[1:], "result": result, "noise": noise.done(),
           "at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
           "cpus": os.cpu_count(), "kernel": os.uname().release}
    if args.label:
        doc["label"] = args.label
    if args.cmd != "loadgen":
        try:
            v = api.get("/version")
            doc["engine"] = {k: v.get(k) for k in ("Version", "ApiVersion", "Os", "Arch")}
        except Exception:
            pass
    json.dump(doc, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
