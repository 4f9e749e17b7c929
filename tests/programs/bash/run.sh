# A server, a loop of bash that counts, and one that only waits: all of them children of this bash.
counter() { local n=0; while read -r _; do n=$((n + 1)); echo "$n"; done; }
coproc COUNTER { counter; }
python3 -u server.py <&"${COUNTER[0]}" >&"${COUNTER[1]}" &
while :; do sleep 3600; done &
wait
