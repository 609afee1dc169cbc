// Package vmm is the machine: it boots Linux in a deterministic one-CPU virtual machine, runs a command in it, and records or replays that run.
//
// # Use
//
// Fill a [Config] and call [Run]. The same Config gives the same [Result], bit for bit, apart from wall times:
//
//	result, err := vmm.Run(ctx, vmm.Config{Kernel: kernel, Initramfs: archive, Command: vmm.Command{Args: []string{"date"}}, Stdout: os.Stdout})
//
// Package images has a kernel and an initramfs. With Config.Record the run writes a trace (package trace); [Replay] runs a trace again and compares every
// event. Whoever needs to send signals meanwhile makes the machine with [New] or [NewReplay] and keeps it: [Machine.Signal], [Machine.Winsize] and
// [Machine.Stop] are for any goroutine.
//
// A guest that crashes, hangs or lies is a Result with another [Outcome], never an error and never a panic; errors mean that the run could not be done.
//
// # Inside
//
// run.go is the loop and the place to begin. It drives a vcpu.CPU (engine.go chooses which), answers exits through the bus (bus.go) and the MSR table
// (pvclock.go), moves virtual time (virtualtime.go), and tells an eventLog (log.go) everything: nothing, a recorder (record.go) or a replayer
// (log.go, replay.go; divergence.go says where two runs part). guest.go talks to the agent in the guest; outside.go is where input from other goroutines waits until the loop takes it; state.go
// has digests, checkpoints and boot snapshots; end.go the ways in which a run ends. machine.go wires it all together as docs/machine.md says.
package vmm
