# A server, a loop of bash that counts, and one that only waits: all of them children of this bash.
counter() { local n=0; while read -r _; do n=$((n + 1)); echo "$n"; done; }
coproc COUNTER { counter; }
# A coprocess's own descriptors are not passed on to what runs in the background.
exec 3<&"${COUNTER[0]}" 4>&"${COUNTER[1]}"
python3 -u server.py <&3 >&4 &
while :; do sleep 3600; done &
wait
