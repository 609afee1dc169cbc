package vcpu

// Ring3 is what a host's KVM does at ring 3 otherwise than the model: where guest user code runs natively and without interception, it sees some of the
// host. A software processor that is to be compared with such a host is told to do the same.
type Ring3 struct {
	// CPUID is what CPUID answers at ring 3. Nil is the machine's own table.
	CPUID []CPUIDLeaf
	// SyscallStays: SYSCALL sets RIP, RCX, R11 and RFLAGS, but CS, SS and the privilege level stay the user's, so that fetching the kernel's entry
	// point faults. The guest kernel of detvm runs the system call from that fault.
	SyscallStays bool
}

// MXCSRMask is the MXCSR_MASK that FXSAVE stores on the processor of this CPUID table (SDM vol. 1, 10.5.1.2; the bit for misaligned SSE: APM vol. 2, 11.3).
func (r *Ring3) MXCSRMask() uint32 {
	const misalignSSE, usual, misaligned = 1 << 7, 0xffff, 1 << 17
	if _, _, c, _ := LookupCPUID(r.CPUID, 0x80000001, 0); c&misalignSSE != 0 {
		return usual | misaligned
	}
	return usual
}
