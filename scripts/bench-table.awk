# Makes one table, in Markdown, of what go test -bench printed: ours, the peer of
# the same run, the limit that a test or the hardware sets, and how ours relates to
# the peer, else to the limit. A row that was not measured is left out.
#
#	usage: awk -f bench-table.awk OUTPUT

/^Benchmark/ {
	name = $1
	sub(/^Benchmark/, "", name)
	sub(/-[0-9]+$/, "", name)
	for (i = 3; i < NF; i += 2) value[name, $(i + 1)] = $i
}

function number(v) { return v >= 100 ? sprintf("%.0f", v) : sprintf("%.3g", v) }

# row prints one; a peer or limit that is no number is shown as it stands.
function row(what, ours, peer, limit, unit, against) {
	if (ours == "" || ours == 0 && what !~ /lost$/) return
	against = peer != "" ? peer : limit
	printf "| %s | %s %s | %s | %s | %s |\n", what, number(ours), unit, peer == "" ? "" : number(peer) " " unit,
		limit == "" ? "" : number(limit) " " unit, against == "" ? "" : sprintf("%.2f", ours / against)
}

END {
	print "| What | Ours | Peer | Limit | Ratio |"
	print "|---|---|---|---|---|"
	n = split("0s 50ms 200ms", rtt)
	for (i = 1; i <= n; i++) {
		b = "Bootstrap/device-keys/" rtt[i]
		ours = value[b, "ns/op"] / 1e6
		if (ours > 0) row("bootstrap over a round trip of " rtt[i] "; AWS's SDK for JavaScript; bare cryptography and network", ours,
			value["Peer/aws-iot-device-sdk-js-v2/" rtt[i], "ns/op"] / 1e6, ours / value[b, "x-floor"], "ms")
	}
	b = "Bootstrap/device-keys/0s"; p = "Peer/aws-iot-device-sdk-js-v2/0s"
	row("bootstrap, CPU time; the same SDK", value[b, "cpu-ms/op"], value[p, "cpu-ms/op"], "", "ms")
	row("bootstrap, greatest resident memory; the same SDK", value[b, "peak-bytes"] / 1e6, value[p, "peak-bytes"] / 1e6, 11 * 1.048576, "MB")
	row("bootstrap, round trips to the second CONNACK", value[b, "round-trips/op"], "", 7, "")
	row("iot_device, stripped", value[b, "binary-bytes"] / 1e6, "", 12, "MB")
	row("outbox, messages on disk, 32 producers; bridge of mosquitto, unsynced", value["Publish/iot_device", "messages/s"], value["Publish/mosquitto-bridge", "messages/s"], "", "per second")
	row("agent, connected again after the link is back, at random", value["Drain", "s-connected"], "", "", "s")
	row("outbox, 1,000 messages sent once there is a connection; AWS IoT\047s rate", value["Drain", "s-drained"], "", 10, "s")
	row("idle agent, CPU time", value["Drain", "%CPU-idle"], "", 0.1, "%")
	row("idle agent, resident memory", value["Drain", "resident-kB"] / 1e3, "", 16, "MB")
	n = split("128-bytes 4096-bytes", size)
	m = split("1-to-1 100-to-1 1-to-100", shape)
	for (i = 1; i <= n; i++) for (j = 1; j <= m; j++) {
		b = "Broker/" size[i] "/" shape[j] "/"
		what = "emulator, " shape[j] ", " size[i] ", QoS 1"
		gsub(/-to-/, " to ", what); gsub(/-bytes/, " bytes", what)
		row(what "; mosquitto", value[b "iot_core_local", "messages/s"], value[b "mosquitto", "messages/s"], "", "per second")
		row(what ", p99; mosquitto", value[b "iot_core_local", "ms-p99"], value[b "mosquitto", "ms-p99"], "", "ms")
		row(what ", acknowledged and lost", value[b "iot_core_local", "lost"], "", "", "")
	}
	row("enrolled, one process; bare cryptography", value["Enrollment", "devices/s"], "", value["Enrollment", "floor/s"], "per second")
	row("enrolled, CPU time for a device; bare cryptography", value["Enrollment", "CPU-ms/device"], "", value["Enrollment", "CPU-ms/device"] * value["Enrollment", "%floor-CPU"] / 100, "ms")
	row("enrolled, two processes and the hook", value["Held", "devices/s"], "", "", "per second")
	row("held device, in the fleet", value["Held", "fleet-kB/held"], "", 30, "kB")
	row("held device, in the emulator, after its enrollment", value["Held", "core-kB/held"], "", "", "kB")
	row("held connection, in the emulator", value["HeldConnections", "B/connection"] / 1e3, "", 35, "kB")
	row("hook, first answer, rules alone", value["FirstAnswer/rules_alone", "ms-median"], "", 6, "ms")
	row("hook, first answer, with look-ups", value["FirstAnswer/asking_about_one", "ms-median"], "", 6, "ms")
	row("hook, zip", value["FirstAnswer/rules_alone", "MB-zip"], "", 4, "MB")
	row("hook, warm invocation with look-ups", value["Invocation/asking_about_one", "ns/op"] / 1e6, "", "", "ms")
	row("policy evaluation", value["Evaluate/device-publish", "ns/op"] / 1e3, "", "", "µs")
}
