//go:build !(linux && amd64)

package main

// kvmFindings says that this platform has no KVM engine.
func kvmFindings() []finding {
	return []finding{{"KVM", false, "not part of this build", "--cpu soft does everything here"}}
}
