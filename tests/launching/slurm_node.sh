#!/usr/bin/env bash
# A SLURM cluster of one node on this machine, apart from any other SLURM here: own folder, own ports, own keys.
#   slurm_node.sh start FOLDER   starts it, and prints the line SLURM_CONF=… for the environment of sbatch and the others
#   slurm_node.sh stop FOLDER    ends its jobs and its daemons
# On Debian: apt-get install --no-install-recommends slurm-wlm munge.  Where it can't start it says so in one line, with status 1.
set -u

can_not() {
  echo "no SLURM node: $*" >&2
  exit 1
}

# Ends the daemons whose process ids the folder holds, and waits for them.
stop() {
  local name id
  for name in slurmd slurmctld munged; do
    id="$(cat "$1/$name.pid" 2>/dev/null)" || continue
    kill "$id" 2>/dev/null || continue
    for _ in $(seq 100); do
      kill -0 "$id" 2>/dev/null || continue 2
      sleep 0.1
    done
    kill -9 "$id" 2>/dev/null
  done
}

# Waits until the command succeeds.
wait_for() {
  for _ in $(seq 100); do
    "$@" >/dev/null 2>&1 && return
    sleep 0.1
  done
  return 1
}

is_idle() {
  sinfo --noheader --format=%T | grep -qE '^(idle|mixed|allocated)$'
}

start() {
  local folder="$1" name port
  [ "$(id -u)" = 0 ] || can_not "slurmd starts jobs, for which it must be root"
  for name in munged slurmctld slurmd sbatch; do
    command -v "$name" >/dev/null || can_not "$name is not installed: apt-get install --no-install-recommends slurm-wlm munge"
  done
  mkdir -p "$folder/state" "$folder/spool" || can_not "$folder can't be made"
  chmod 755 "$folder"
  head -c 1024 /dev/urandom >"$folder/munge.key"
  chmod 600 "$folder/munge.key"
  port=$((20000 + RANDOM % 20000))
  # Without control groups: a container often has none that may be written.  KillWait: seconds between SIGTERM and SIGKILL.  A requeued
  # job starts again when the credentials of its first start have expired (cred_expire, 120 s by default).
  cat >"$folder/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=10
CryptoType=crypto/munge
SlurmctldPort=$port
SlurmdPort=$((port + 1))
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2,requeue_setup_env_fail,max_array_tasks=1000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
MinJobAge=5
InactiveLimit=0
JobRequeue=1
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=20 State=UP
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=2 State=UP
CONF
  printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nIgnoreSystemd=yes\n' >"$folder/cgroup.conf"
  export SLURM_CONF="$folder/slurm.conf"
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" >"$folder/munged.said" 2>&1 ||
    can_not "munged: $(tail -n 1 "$folder/munged.said")"
  slurmctld >"$folder/slurmctld.said" 2>&1 || {
    stop "$folder"
    can_not "slurmctld: $(tail -n 1 "$folder/slurmctld.said")"
  }
  slurmd >"$folder/slurmd.said" 2>&1 || {
    stop "$folder"
    can_not "slurmd: $(tail -n 1 "$folder/slurmd.said" "$folder/slurmd.log" 2>/dev/null | tail -n 1)"
  }
  wait_for is_idle || {
    stop "$folder"
    can_not "the node isn't ready: $(tail -n 1 "$folder/slurmd.log")"
  }
  echo "SLURM_CONF=$SLURM_CONF"
}

case "${1:-}" in
start) start "$(realpath -m "${2:?a folder is wanted}")" ;;
stop)
  folder="$(realpath -m "${2:?a folder is wanted}")"
  SLURM_CONF="$folder/slurm.conf" scancel --full --signal=KILL --user="$(id -un)" >/dev/null 2>&1
  SLURM_CONF="$folder/slurm.conf" scancel --user="$(id -un)" >/dev/null 2>&1
  stop "$folder"
  ;;
*)
  echo "usage: $0 start|stop FOLDER" >&2
  exit 2
  ;;
esac
