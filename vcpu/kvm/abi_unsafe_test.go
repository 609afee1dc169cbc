package kvm

import "unsafe"

// layoutSizes measures the structures that go to the kernel.
var layoutSizes = struct {
	regs, sregs, events, debugRegs, translation, guestDebug, enableCap, msrFilter, region, runRegs uintptr
}{
	unsafe.Sizeof(kvmRegs{}), unsafe.Sizeof(kvmSregs{}), unsafe.Sizeof(kvmEvents{}), unsafe.Sizeof(kvmDebugRegs{}), unsafe.Sizeof(kvmTranslation{}),
	unsafe.Sizeof(kvmGuestDebug{}), unsafe.Sizeof(kvmEnableCap{}), unsafe.Sizeof(kvmMSRFilter{}), unsafe.Sizeof(kvmMemoryRegion{}),
	unsafe.Offsetof(runPage{}.regs),
}
