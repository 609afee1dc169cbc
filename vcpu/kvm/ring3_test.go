package kvm

import (
	"reflect"
	"testing"

	"github.com/detvm/detvm/vcpu"
)

func TestModelIsWhatTheGuestSees(t *testing.T) {
	needKVM(t)
	table, ring3, err := Model()
	if err != nil {
		t.Fatal(err)
	}
	if _, b, _, _ := vcpu.LookupCPUID(table, 0, 0); b != 0x756e6547 {
		t.Errorf("the vendor in the table is %#x, not that of detvm-v1", b)
	}
	h := Probe()
	if h.KVM != nil {
		t.Fatal(h.KVM)
	}
	if (ring3.CPUID == nil) != h.UserCPUID {
		t.Errorf("ring 3 sees the table: %v; measured a table of its own: %v", h.UserCPUID, ring3.CPUID != nil)
	}
	again, ring3Again, err := Model()
	if err != nil || !reflect.DeepEqual(again, table) || !reflect.DeepEqual(ring3Again, ring3) {
		t.Errorf("a second measurement differs: %v", err)
	}
}
