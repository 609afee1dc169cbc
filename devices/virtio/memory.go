package virtio

// GuestMemory is guest RAM as a device may touch it.
type GuestMemory interface {
	// Slice returns the n bytes of RAM at guest-physical address gpa, or false when any of them is not RAM or the range does not lie
	// in one piece. The slice stays valid until the guest runs again.
	Slice(gpa, n uint64) ([]byte, bool)
	// Written tells that a device has changed, or is about to change before the guest runs again, the n bytes at gpa, which a Slice covered.
	Written(gpa, n uint64)
}
