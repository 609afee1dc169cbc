package kvm

import (
	"encoding/binary"
	"testing"

	"github.com/detvm/detvm/vcpu"
	"github.com/google/go-cmp/cmp"
)

// Stepping through a program gives what running it gives.
func TestSteppingChangesNothing(t *testing.T) {
	code := []byte{
		0x9c,       // pushfq
		0x0f, 0x0b, // ud2: an exception frame
		0x90, 0x90, 0xf4, // never reached: the stub halts
	}
	run := func(step bool) *vcpu.State {
		g := guest(t, vcpu.ClockExits, 0, code...)
		if err := g.bind(); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			got, err := g.execute(step)
			if err != nil {
				t.Fatal(err)
			}
			if got == outcomeExit && g.run.exitReason == exitHalt {
				s := g.mustState(t)
				frame := g.ram[s.GPR[vcpu.RSP] : s.GPR[vcpu.RSP]+48]
				if flags := binary.LittleEndian.Uint64(frame[16:]); flags&flagTF != 0 {
					t.Errorf("the exception frame holds flags %#x", flags)
				}
				return s
			}
		}
		t.Fatal("no end")
		return nil
	}
	if diff := cmp.Diff(run(false), run(true)); diff != "" {
		t.Errorf("stepping changed the end:\n%s", diff)
	}
}

// The copies of RFLAGS that a processor makes while it is stepped lose TF. The step is made up here: this host's interpreter does not leave TF behind.
func TestHideStepFindsEveryCopy(t *testing.T) {
	const top = tinyStack0 - 0x100
	tf := uint64(flagTF | 2)
	put := func(ram []byte, words ...uint64) {
		for i, w := range words {
			binary.LittleEndian.PutUint64(ram[top+8*i:], w)
		}
	}
	for _, c := range []struct {
		name   string
		code   []byte
		own    bool // the guest itself had TF set
		stack  []uint64
		copyAt int // index in stack, or -1 for R11
		kept   bool
	}{
		{"pushfq", []byte{0x9c}, false, []uint64{tf}, 0, false},
		{"pushfq with the guest's own TF", []byte{0x9c}, true, []uint64{tf}, 0, true},
		{"syscall", []byte{0x0f, 0x05}, false, nil, -1, false},
		{"fault without error code", []byte{0x0f, 0x0b}, false, []uint64{tinyCode, selKernelCode, tf, tinyStack0, selKernelData}, 2, false},
		{"fault with error code", []byte{0x8b, 0x00}, false, []uint64{6, tinyCode, selKernelCode, tf, tinyStack0, selKernelData}, 3, false},
		{"a push that looks a little alike", []byte{0x50}, false, []uint64{tinyCode, selKernelCode, tf, 1, selKernelData}, 2, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := guest(t, vcpu.ClockExits, 0, c.code...)
			origin, err := g.stepOrigin()
			if err != nil {
				t.Fatal(err)
			}
			if c.own {
				origin.regs.rflags |= flagTF
			}
			after := origin.regs
			after.rflags &^= flagTF
			after.rsp, after.r11 = top, tf
			if err := ioctlPtr(g.cpu, ioSetRegs, &after); err != nil {
				t.Fatal(err)
			}
			put(g.ram, c.stack...)
			if err := g.hideStep(origin); err != nil {
				t.Fatal(err)
			}
			got := g.mustState(t).GPR[11]
			if c.copyAt >= 0 {
				got = binary.LittleEndian.Uint64(g.ram[top+8*c.copyAt:])
			}
			if (got == tf) != c.kept {
				t.Errorf("the copy is %#x", got)
			}
		})
	}
}
