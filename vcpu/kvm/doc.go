// Package kvm is the [vcpu.CPU] interface on Linux's /dev/kvm.
//
// # What runs where
//
// The guest's instructions run in the ioctl KVM_RUN of one vCPU. There is no in-kernel interrupt controller, timer or clock: whatever the guest
// asks of its surroundings comes back as an exit, and nothing enters the guest but what the machine hands to [vcpu.CPU.Interrupt]. Every MSR that
// is not plain processor state is filtered to the machine (KVM_X86_SET_MSR_FILTER, KVM_CAP_X86_USER_SPACE_MSR). Interrupts are injected only when KVM
// says that it is ready at a synchronous exit or at a counter stop; the "interrupt window" of KVM is never asked for, because where it opens is not
// reproducible on hosts that interpret ring 0.
//
// # Threads and signals
//
// Work counters belong to an operating-system thread and so does KVM_RUN. The first Run on a goroutine therefore wires that goroutine to its thread
// (runtime.LockOSThread) until Close; later calls from another goroutine are allowed and rebind the engine, at the price of opening the counter
// again. One real-time signal, 42, is blocked in such a thread and open only inside KVM_RUN (KVM_SET_SIGNAL_MASK): Kick and counter overflow make
// KVM_RUN return EINTR, and the signal is then collected with rt_sigtimedwait. No handler ever runs and the Go runtime never sees it. EINTR is an event,
// never an error: Run comes back with ReasonStop or ReasonKick.
//
// # Counting
//
// [vcpu.ClockExits] works everywhere. [vcpu.ClockKernelInstructions] counts the tracepoint kvm:kvm_emulate_insn, on hosts whose KVM interprets ring 0.
// [vcpu.ClockBranches] counts retired conditional branches on a hardware PMU. Both are perf events behind one small interface (counter), and one
// piece of code (lander) stops the guest exactly at a count: it arms the overflow a margin early and walks the rest by single steps. The margin is the
// counter's skid: zero for the tracepoint. A counter that overshoots is an error, never a late stop. [Probe] measures which counter this
// host really has by running a guest of known length.
//
// # What a host may fail to do
//
// A KVM that interprets ring 0 lacks some instructions. Those of the CPU model that a kernel cannot avoid are completed here (emulate.go); those outside
// the model raise #UD as they should; the rest end the run with ReasonFailure, naming the instruction. Stock KVM has no exit for RDTSC: ring 0 must not
// execute it, and ring 3 is stopped by the guest kernel's CR4.TSD. A host that honours CR4.TSD only for its own threads is detected, and the vCPU
// thread then runs the guest under PR_SET_TSC (run_unsafe.go).
package kvm
