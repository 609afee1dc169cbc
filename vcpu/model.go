package vcpu

import "encoding/binary"

// CPUIDLeaf is one row of the CPUID table. Leaves without subleaves have HasSubleaf false and answer any ECX.
type CPUIDLeaf struct {
	Leaf, Subleaf      uint32
	HasSubleaf         bool
	EAX, EBX, ECX, EDX uint32
}

// Feature bits of the paravirtual interface (docs/machine.md).
const (
	detvmFeatureTimer = 1 << 0
	detvmFeatureTSC   = 1 << 1
	kvmClocksource2   = 1 << 3
	kvmClockStable    = 1 << 24
)

// Feature bits of leaf 1 and 0x80000001 that the model shows (SDM vol. 2A, CPUID).
const (
	leaf1ECX = 1<<0 | // SSE3
		1<<9 | // SSSE3
		1<<13 | // CMPXCHG16B
		1<<19 | // SSE4.1
		1<<20 | // SSE4.2
		1<<23 | // POPCNT
		1<<31 // hypervisor present
	leaf1EDX = 1<<0 | 1<<3 | 1<<4 | // FPU, PSE, TSC
		1<<5 | 1<<6 | 1<<8 | // MSR, PAE, CX8
		1<<11 | 1<<13 | 1<<15 | 1<<16 | // SEP, PGE, CMOV, PAT
		1<<19 | 1<<23 | 1<<24 | 1<<25 | 1<<26 // CLFSH, MMX, FXSR, SSE, SSE2
	leafExt1EDX = 1<<11 | 1<<20 | 1<<26 | 1<<27 | 1<<29 // SYSCALL, NX, 1 GiB pages, RDTSCP, long mode
	leafExt1ECX = 1 << 0                                // LAHF/SAHF in 64-bit mode
)

// DetvmV1 returns the CPUID table of the frozen CPU model detvm-v1: x86-64-v2 (SSE to SSE4.2, POPCNT, CX16), no AVX, XSAVE, RDRAND, RDSEED,
// TSC-deadline, APIC, x2APIC or PMU. tscIsTime says that RDTSC returns virtual time on this engine (Capabilities.TrapsTSC).
// The table never changes; a different machine gets a different model name.
func DetvmV1(tscIsTime bool) []CPUIDLeaf {
	kvmFeatures, detvmFeatures := uint32(kvmClocksource2), uint32(detvmFeatureTimer)
	if tscIsTime {
		kvmFeatures |= kvmClockStable
		detvmFeatures |= detvmFeatureTSC
	}
	leaf := func(n uint32, a, b, c, d uint32) CPUIDLeaf {
		return CPUIDLeaf{Leaf: n, EAX: a, EBX: b, ECX: c, EDX: d}
	}
	text := func(n uint32, a uint32, s string) CPUIDLeaf {
		var t [12]byte
		copy(t[:], s)
		w := func(i int) uint32 { return binary.LittleEndian.Uint32(t[i:]) }
		return leaf(n, a, w(0), w(4), w(8))
	}
	brand := func(n uint32, s string) CPUIDLeaf {
		var t [16]byte
		copy(t[:], s)
		w := func(i int) uint32 { return binary.LittleEndian.Uint32(t[i:]) }
		return leaf(n, w(0), w(4), w(8), w(12))
	}
	return []CPUIDLeaf{
		// Max leaf 4: stays below 7 (hosts rewrite it) and 0xd (XSAVE). The order of EBX, ECX, EDX in the vendor string is B, D, C.
		leaf(0, 4, 0x756e6547, 0x6c65746e, 0x49656e69),      // "GenuineIntel"
		leaf(1, 0x000106a0, 0x00010800, leaf1ECX, leaf1EDX), // family 6 model 0x1a; CLFLUSH line 64 bytes; one logical processor
		leaf(2, 0, 0, 0, 0),                              // no cache descriptors
		{Leaf: 4, Subleaf: 0, HasSubleaf: true},          // no deterministic cache parameters
		text(0x40000000, 0x40000001, "KVMKVMKVM"),        // kvm-clock
		leaf(0x40000001, kvmFeatures, 0, 0, 0),           //
		text(0x40000100, 0x40000101, "detvmdetvm"),       // our own timer and time (docs/machine.md)
		leaf(0x40000101, detvmFeatures, 1_000_000, 0, 0), // TSC kHz: one tick is one nanosecond
		leaf(0x80000000, 0x80000008, 0, 0, 0),            //
		leaf(0x80000001, 0, 0, leafExt1ECX, leafExt1EDX), //
		brand(0x80000002, "detvm-v1 virtual"),            //
		brand(0x80000003, " processor"),                  //
		brand(0x80000004, ""),                            //
		leaf(0x80000005, 0, 0, 0, 0),                     //
		leaf(0x80000006, 0, 0, 0, 0),                     //
		leaf(0x80000007, 0, 0, 0, 1<<8),                  // invariant TSC
		leaf(0x80000008, 0x00003028, 0, 0, 0),            // 40-bit physical, 48-bit linear addresses
	}
}

// LookupCPUID answers CPUID for EAX=leaf, ECX=subleaf. An absent leaf answers zeros, as hypervisors do.
func LookupCPUID(table []CPUIDLeaf, leaf, subleaf uint32) (eax, ebx, ecx, edx uint32) {
	for i := range table {
		l := &table[i]
		if l.Leaf == leaf && (!l.HasSubleaf || l.Subleaf == subleaf) {
			return l.EAX, l.EBX, l.ECX, l.EDX
		}
	}
	return 0, 0, 0, 0
}
