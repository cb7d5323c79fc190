# In the virtual machine of power_cuts.rs: an agent, a group that it meters, and what the kernel says of it.
# FAILPOINT and LAST come from the kernel's command line.
export NO_COLOR=1
group=/sys/fs/cgroup/metered
agent() { /tallystick-agent --config /agent.toml "$@"; }
field() { sed -n "s/.*\"$1\": *\([0-9]*\).*/\1/p" /data/agent/status.json 2>/dev/null; }
sealed() { sealed=$(field next_seq); echo "${sealed:-0}"; }

load() {
    mkdir $group
    sh -c "echo \$\$ > $group/cgroup.procs; while :; do i=0; while [ \$i -lt 3000 ]; do i=\$((i+1)); done; sleep 0.05; done" &
}

# What it has used, the time after that was read, and what the agent had then sealed and had receipts for.
watch() {
    while read -r _ used < $group/cpu.stat; do
        echo "SEEN $used $(date +%s%6N) $(sealed) $(field receipted_through)"
        sleep 0.1
    done
}

echo "BOOT $(tr -d - < /proc/sys/kernel/random/boot_id)"
# Written in the life before, and never synced.
echo "UNSYNCED $(cat /data/unsynced 2>/dev/null | wc -c)"
rm -f /data/unsynced
agent status > /dev/null
echo "STATUS $?"
before=$(sealed)
# The very first time a group is metered from its birth only if the agent saw that; later a boot is enough.
[ "$before" -gt 0 ] && load
TALLYSTICK_FAILPOINT=$FAILPOINT /tallystick-agent --config /agent.toml run &
agent=$!
until [ "$(sealed)" -gt 0 ]; do sleep 0.1; done
[ "$before" -gt 0 ] || load
watch &
head -c 4096 /dev/zero > /data/unsynced

if [ -z "$LAST" ]; then
    wait $agent
    echo "STRUCK $?"
    sleep 1000
fi
until [ "$(sealed)" -gt $((before + 3)) ]; do sleep 0.1; done
echo 1 > $group/cgroup.kill
while read -r _ < $group/cgroup.procs; do sleep 0.1; done
sleep 0.5
read -r _ used < $group/cpu.stat
echo "FINAL $used"
kill -TERM $agent
wait $agent
echo "AGENT $?"
agent buffer verify
echo "VERIFIED $?"
