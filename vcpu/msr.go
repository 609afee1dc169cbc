package vcpu

// Model-specific registers that are plain processor state (SDM vol. 4, table 2-2). Engines answer them by themselves; every other MSR is an exit.
const (
	MSRSysenterCS   = 0x174 // selector of the ring 0 code segment of SYSENTER
	MSRSysenterESP  = 0x175
	MSRSysenterEIP  = 0x176
	MSRMiscEnable   = 0x1a0
	MSRPAT          = 0x277 // memory types of the page attribute table
	MSREFER         = 0xc0000080
	MSRSTAR         = 0xc0000081 // selectors of SYSCALL and SYSRET
	MSRLSTAR        = 0xc0000082 // target of SYSCALL in 64-bit mode
	MSRCSTAR        = 0xc0000083 // … in compatibility mode, on processors that have it
	MSRSFMASK       = 0xc0000084 // RFLAGS bits that SYSCALL clears
	MSRFSBase       = 0xc0000100
	MSRGSBase       = 0xc0000101
	MSRKernelGSBase = 0xc0000102 // what SWAPGS exchanges GS.base with
	MSRTSCAux       = 0xc0000103 // what RDTSCP returns in ECX
)

// Model-specific registers of the same table that the machine answers: time is not the engine's, and there is no APIC.
const (
	MSRTSC       = 0x10
	MSRAPICBase  = 0x1b
	MSRTSCAdjust = 0x3b
)

// Model-specific registers of the paravirtual interface (docs/machine.md), which the machine answers.
const (
	MSRKVMWallClock  = 0x4b564d00
	MSRKVMSystemTime = 0x4b564d01
	MSRDetvmTimer    = 0xd3700000
	MSRDetvmTime     = 0xd3700001
)
