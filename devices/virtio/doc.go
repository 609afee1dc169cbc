// Package virtio implements paravirtual devices after the "Virtual I/O Device (VIRTIO) Version 1.2" specification, whose sections the
// comments cite: the MMIO transport, split virtqueues, and the block, console and entropy devices.
//
// Three layers know as little as possible of each other:
//
//   - [Transport] (mmio.go) is what the driver programs: the register window, feature negotiation, the status machine, the interrupt.
//   - [Queue] and [Chain] (queue.go, chain.go) move buffers through guest memory. They know rings and descriptors, not their meaning.
//   - A [Device] (block.go, console.go, rng.go; a network device would be net.go) gives the buffers their meaning. It sees its queues
//     and the little [Bus] behind it, never a register or a ring.
//
// Everything is synchronous: a notification is a register write, and when that write returns the device has done all the work that it
// could do. Nothing runs in between, so what the guest sees is a function of its own accesses and of the few calls from the machine ([Console.Send],
// [RNG.SetSeed]).
//
// The driver is hostile. Addresses are checked against [GuestMemory] at each use; a descriptor chain has at most as many
// descriptors as its queue and at most [MaxChainBytes] bytes; a notification handles at most one queue of chains. Whatever breaks the
// rules of the specification puts the device into DEVICE_NEEDS_RESET (2.1.2), where it stays silent until the driver resets it.
//
// Nothing here is safe for concurrent use: all calls come from the run loop.
package virtio
