#!/bin/bash
# Runs every measurement in turn and keeps one JSON file each.
# usage: runall.sh OUTDIR HOST NETNS ROOT_PID MATCH [subset...]
# HOST is unix:///path; NETNS the engine's network namespace (or "-");
# ROOT_PID the daemon; MATCH a regex for helper processes (or "-").
set -u
OUT=$1 HOST=$2 NS=$3 PID=$4 MATCH=$5; shift 5
HERE=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$OUT"
B=(python3 "$HERE/swarmbench.py" --host "$HOST" --root-pid "$PID")
[ "$NS" = - ] || B=(nsenter --net=/run/netns/"$NS" "${B[@]}")
[ "$MATCH" = - ] || B+=(--match "$MATCH")
ACCT=/sys/fs/cgroup/cpuacct/bench-$NS
[ -d "$ACCT" ] && B+=(--cpuacct "$ACCT")
ALL=(footprint-tasks container-start exec-rate deploy-latency heal-latency scale rolling-update
     api-write-rate api-read-rate load-host-fixed load-host-dynamic load-dnsrr load-ingress footprint-services)
[ $# -gt 0 ] && ALL=("$@")
for m in "${ALL[@]}"; do
  x=()
  case $m in
    footprint-tasks)    a=(footprint --phase tasks) ;;
    footprint-services) a=(footprint --phase services) ;;
    load-*)             a=(update-under-load --mode "${m#load-}") ;;
    api-write-services) a=(api-write-rate --kind services) ;;
    rolling-quick)      x=(--runs 1) a=(rolling-update) ;;
    load-quick)         x=(--runs 1) a=(update-under-load --mode ingress) ;;
    deploy-quick)       a=(deploy-latency --replicas 1,10,50) ;;
    footprint-quick)    a=(footprint --phase tasks --replicas 1,50 --rest 2) ;;
    *)                  a=("$m") ;;
  esac
  t=$(date +%s)
  "${B[@]}" "${x[@]}" "${a[@]}" >"$OUT/$m.json" 2>"$OUT/$m.err"
  echo "$m rc=$? $(( $(date +%s) - t ))s load $(cut -d' ' -f1 /proc/loadavg) $(tail -1 "$OUT/$m.err" | cut -c1-200)"
done
