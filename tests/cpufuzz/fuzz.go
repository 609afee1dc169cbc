package cpufuzz

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/detvm/detvm/vcpu"
	"golang.org/x/arch/x86/x86asm"
)

// fuzzer runs batches of cases on two machines and compares.
type fuzzer struct {
	gen         *generator
	real, model *machine
	cases       [slots]testCase
	counts      []int // executions of each row
	total       int
	faults      int
	native      *native
	emulated    map[string]int     // cases that KVM answered in place of the processor, by reason; compared with native instead
	before      [slots * page]byte // the sandboxes as a batch found them
	transient   int                // differences that did not come again
	free        map[string]int     // cases not compared because the manual leaves open what happens, by reason
	turn        int                // which row comes next
}

func newFuzzer(seed uint64, realCPU, modelCPU func(vcpu.Config) (vcpu.CPU, error)) (*fuzzer, error) {
	f := &fuzzer{gen: newGenerator(seed), emulated: map[string]int{}, free: map[string]int{}}
	f.counts = make([]int, len(f.gen.forms))
	var err error
	if f.real, err = newMachine("kvm", realCPU); err != nil {
		return nil, err
	}
	if f.model, err = newMachine("soft", modelCPU); err != nil {
		return nil, errors.Join(err, f.real.close())
	}
	if f.native, err = newNative(); err != nil {
		return nil, errors.Join(err, f.real.close(), f.model.close())
	}
	return f, nil
}

func (f *fuzzer) close() error { return errors.Join(f.real.close(), f.model.close(), f.native.close()) }

// batch runs one batch and reports each difference. The rows take turns, so that every row comes equally often.
//
// A difference must come again when the batch is run again from the same memory. Once in millions of cases KVM executes an instruction twice, or on a page that it is
// about to take away; such differences are counted.
func (f *fuzzer) batch(report func(string)) error {
	for s := range slots {
		form := f.gen.usable[f.turn%len(f.gen.usable)]
		f.turn++
		f.gen.next(&f.cases[s], s, form)
	}
	for s := range slots {
		putSandbox(f.model.ram, s, &f.cases[s])
	}
	copy(f.before[:], f.model.ram[sandboxPhys:])
	diffs, err := f.execute()
	if err != nil {
		return err
	}
	for s := range slots {
		for _, form := range f.cases[s].forms {
			f.counts[form]++
		}
	}
	f.total += slots
	if len(diffs) > 0 {
		again, err := f.execute()
		if err != nil {
			return err
		}
		for _, s := range slices.Sorted(maps.Keys(diffs)) {
			if again[s] == "" {
				f.transient++
				continue
			}
			report(again[s] + f.describe(s))
		}
	}
	return f.compareRest(report)
}

// execute runs the batch on both machines, from the memory in f.before, and returns the differences by slot. Those of a machine that went astray come under the
// slot in which it did.
func (f *fuzzer) execute() (diffs map[int]string, err error) {
	for _, m := range []*machine{f.real, f.model} {
		copy(m.ram[sandboxPhys:], f.before[:])
		for s := range slots {
			c := &f.cases[s]
			if m == f.real && processOnly(&f.gen.forms[c.forms[0]]) {
				c = c.withoutCode(s)
			}
			m.put(s, c)
		}
	}
	diffs = map[int]string{}
	for _, m := range []*machine{f.real, f.model} {
		err := m.run()
		var e *strayError
		switch {
		case errors.As(err, &e):
			diffs[min(max(e.slot, 0), slots-1)] = e.Error() + "\n"
		case err != nil:
			return nil, err
		}
	}
	if len(diffs) > 0 {
		return diffs, f.recover()
	}
	for s := range slots {
		diff, err := f.compare(s)
		if err != nil {
			return nil, err
		}
		if diff != "" {
			diffs[s] = diff
		}
	}
	return diffs, nil
}

// level makes the sandboxes of a slot equal again after a difference: later cases see what earlier ones left.
func (f *fuzzer) level(slot int) {
	box := sandboxPhys + uint64(slot)*page
	copy(f.model.ram[box:box+page], f.real.ram[box:])
	f.model.cpu.MemoryWritten(box, page)
}

// compareRest checks the memory that no case should have touched.
func (f *fuzzer) compareRest(report func(string)) error {
	if f.total/slots%64 != 0 || f.sameRest() {
		return nil
	}
	report("memory outside the sandboxes differs\n")
	return f.recover()
}

// sameRest compares the code pages, but for the cases in them, which need not be the same, and what follows the sandboxes.
func (f *fuzzer) sameRest() bool {
	same := func(from, to uint64) bool { return bytes.Equal(f.real.ram[from:to], f.model.ram[from:to]) }
	for s := range slots {
		if at := codeOf(s); !same(at, at+testAt) || !same(at+testAt+testMax, at+page) {
			return false
		}
	}
	return same(readOnlyAt, ramSize)
}

// recover starts both machines over after one went astray.
func (f *fuzzer) recover() error {
	copy(f.model.ram, f.real.ram)
	f.model.cpu.MemoryWritten(0, ramSize)
	return errors.Join(f.real.restart(), f.model.restart())
}

// compare checks one slot and returns what differs.
func (f *fuzzer) compare(slot int) (diff string, err error) {
	data, box := dataOf(slot), sandboxPhys+uint64(slot)*page
	a, b := f.real.ram[data+outGPR:data+outEnd], f.model.ram[data+outGPR:data+outEnd]
	if vec := binary.LittleEndian.Uint64(a[outVec-outGPR:]); vec != noFault {
		f.faults++
	}
	memA, memB := f.real.ram[box:box+page], f.model.ram[box:box+page]
	c := &f.cases[slot]
	if processOnly(&f.gen.forms[c.forms[0]]) {
		defer f.level(slot)
		// The sandbox as the guest left it, which did not execute the case: now and then a case writes to the sandbox of another.
		if a, memA, err = f.askNative(slot, memA); err != nil {
			return "", err
		}
		if why := freedom(c, f.gen.forms, verdictOf(a), verdictOf(b)); why != "" {
			f.free[why]++
			return "", nil
		}
		ignoreFrames(c, f.gen.forms, verdictOf(a), verdictOf(b))
		return f.differences(c, a, b, memA, memB), nil
	}
	if bytes.Equal(a, b) && bytes.Equal(memA, memB) {
		return "", nil
	}
	defer f.level(slot)
	if why := emulatedQuirk(c, f.gen.forms, verdictOf(a), verdictOf(b)); why != "" {
		f.emulated[why]++
		var mem []byte
		if a, mem, err = f.askNative(slot, f.before[slot*page:(slot+1)*page]); err != nil {
			return "", err
		}
		if !bytes.Equal(memA, memB) {
			memA = mem
		}
	}
	if why := freedom(c, f.gen.forms, verdictOf(a), verdictOf(b)); why != "" {
		f.free[why]++
		return "", nil
	}
	ignoreFrames(c, f.gen.forms, verdictOf(a), verdictOf(b))
	return f.differences(c, a, b, memA, memB), nil
}

// askNative executes the case of a slot in a process of the host, with the sandbox that it is given, and returns what it left: the storing half of the data page, and
// the sandbox. What a process cannot know is taken from the model: error codes.
func (f *fuzzer) askNative(slot int, sandbox []byte) (out, box []byte, err error) {
	data, at := dataOf(slot), sandboxPhys+uint64(slot)*page
	c := &f.cases[slot]
	putCase(f.native.ram, slot, c)
	copy(f.native.ram[sandboxPhys:], f.before[:]) // now and then a case reads the sandbox of another
	copy(f.native.ram[at:at+page], sandbox)
	pending := c.fx[2]&0x80 != 0 && (c.mmx || f.gen.forms[c.forms[0]].X87 != nil)
	if err := f.native.run(slot, pending); err != nil {
		return nil, nil, fmt.Errorf("execute a case in a process: %w\n%s", err, f.describe(slot))
	}
	out = f.native.ram[data+outGPR : data+outEnd]
	copy(out[outErr-outGPR:outErr-outGPR+8], f.model.ram[data+outErr:])
	return out, f.native.ram[at : at+page], nil
}

// differences lists what differs between two data pages' storing halves and two sandboxes.
func (f *fuzzer) differences(c *testCase, a, b, memA, memB []byte) string {
	var out strings.Builder
	line := func(what string, x, y uint64) {
		if x != y {
			fmt.Fprintf(&out, "  %s: real %#x, soft %#x\n", what, x, y)
		}
	}
	for reg := range 16 {
		at := outGPR + 8*reg
		line(regNames[reg], word(a, at), word(b, at))
	}
	line("flags", word(a, outFlags)&^c.ignoreFlags, word(b, outFlags)&^c.ignoreFlags)
	line("vector", word(a, outVec), word(b, outVec))
	if !c.ignoreCR2 {
		line("error code", word(a, outErr), word(b, outErr))
	}
	line("fault RIP", word(a, outRIP), word(b, outRIP))
	line("mark", word(a, outMark), word(b, outMark))
	if word(a, outVec) != noFault {
		line("flags in the frame", word(a, outFrame)&^c.ignoreFlags, word(b, outFrame)&^c.ignoreFlags)
	}
	if word(a, outVec) == vecPF && !c.ignoreCR2 {
		line("CR2", word(a, outCR2), word(b, outCR2))
	}
	compareFX(&out, a[outFX-outGPR:], b[outFX-outGPR:], fxRules{
		withoutX87: c.ignoreX87 || c.mmx && word(a, outVec) != noFault,
		oneUnit:    transcendental[f.gen.forms[c.forms[0]].Mnemonic],
	})
	compareMemory(&out, memA, memB, c.ignoreMem)
	return out.String()
}

// word reads a field of the storing half of a data page.
func word(m []byte, at int) uint64 { return binary.LittleEndian.Uint64(m[at-outGPR:]) }

func verdictOf(m []byte) verdict {
	return verdict{word(m, outVec), word(m, outErr), word(m, outCR2)}
}

var regNames = [16]string{"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"}

// fxRules is what a comparison of two FXSAVE images leaves out.
type fxRules struct{ withoutX87, oneUnit bool }

func compareFX(out *strings.Builder, a, b []byte, rules fxRules) {
	x, y := [512]byte(a), [512]byte(b)
	for _, fx := range []*[512]byte{&x, &y} {
		maskFX(fx[:])
		if rules.withoutX87 {
			fx[3] &^= 0x38 // TOP
			fx[4] = 0
			clear(fx[32:160])
		}
		if rules.oneUnit {
			fx[2] &^= 0xa0 // PE, ES
			fx[3] &^= 0x82 // C1, B
		}
	}
	if rules.oneUnit {
		for at := 32; at < 160; at += 16 {
			if oneUnitApart(x[at:], y[at:]) {
				copy(y[at:at+10], x[at:at+10])
			}
		}
	}
	for _, field := range []struct {
		name     string
		from, to int
	}{{"FCW", 0, 2}, {"FSW", 2, 4}, {"FTW", 4, 5}, {"MXCSR", 24, 28}} {
		if !bytes.Equal(x[field.from:field.to], y[field.from:field.to]) {
			fmt.Fprintf(out, "  %s: real % x, soft % x\n", field.name, x[field.from:field.to], y[field.from:field.to])
		}
	}
	for i := range 24 {
		at := 32 + 16*i
		name := fmt.Sprintf("ST%d", i)
		if i >= 8 {
			name = fmt.Sprintf("XMM%d", i-8)
		}
		if !bytes.Equal(x[at:at+16], y[at:at+16]) {
			fmt.Fprintf(out, "  %s: real % x, soft % x\n", name, x[at:at+16], y[at:at+16])
		}
	}
}

// oneUnitApart compares two 80-bit numbers of one sign; the units at a power of two are those of either side.
func oneUnitApart(a, b []byte) bool {
	x, y := binary.LittleEndian.Uint64(a), binary.LittleEndian.Uint64(b)
	ex, ey := binary.LittleEndian.Uint16(a[8:]), binary.LittleEndian.Uint16(b[8:])
	switch ex {
	case ey:
		return x-y == 1 || y-x == 1
	case ey + 1:
		return x == 1<<63 && y == ^uint64(0)
	case ey - 1:
		return y == 1<<63 && x == ^uint64(0)
	}
	return false
}

func compareMemory(out *strings.Builder, a, b []byte, ignore []span) {
	skip := func(i int) bool {
		for _, s := range ignore {
			if i >= s.from && i < s.to {
				return true
			}
		}
		return false
	}
	shown := 0
	for i := range a {
		if a[i] != b[i] && !skip(i) && shown < 16 {
			fmt.Fprintf(out, "  memory +%#x: real %#02x, soft %#02x\n", i, a[i], b[i])
			shown++
		}
	}
}

// describe shows a case to a person: the instructions and the state they started from.
func (f *fuzzer) describe(slot int) string {
	c := &f.cases[slot]
	var out strings.Builder
	fmt.Fprintf(&out, "  slot %d at %#x, sandbox at %#x\n", slot, codeOf(slot)+testAt, sandboxOf(slot))
	code := c.code
	for _, form := range c.forms {
		inst, err := x86asm.Decode(code, 64)
		text := "?"
		if err == nil && inst.Op != 0 {
			text = x86asm.IntelSyntax(inst, 0, nil)
		} else {
			inst.Len = min(len(code), 12)
		}
		fmt.Fprintf(&out, "  %-28s % x   (row %s %v)\n", text, code[:inst.Len], f.gen.forms[form].Mnemonic, f.gen.forms[form].Operands)
		code = code[inst.Len:]
	}
	for reg, v := range c.gpr {
		fmt.Fprintf(&out, "  %s=%#x", regNames[reg], v)
	}
	fmt.Fprintf(&out, "\n  flags %#x, not compared %#x; FCW %x FSW %x FTW %x MXCSR %x\n", c.flags, c.ignoreFlags, c.fx[0:2], c.fx[2:4], c.fx[4:5], c.fx[24:28])
	return out.String()
}

// coverage reports how often each row was executed: the rows below least, and the rows that are left out, with the reason.
func (f *fuzzer) coverage(least int) (short []string, report string) {
	var out strings.Builder
	covered, left, byProcess, rarest := 0, 0, 0, f.total
	usable := map[int]bool{}
	for _, i := range f.gen.usable {
		usable[i] = true
	}
	for i := range f.gen.forms {
		form := &f.gen.forms[i]
		name := fmt.Sprintf("%02X/%d.%d.%d %s %s", form.Opcode, form.Map, form.Prefix, form.Ext, form.Mnemonic, strings.Join(form.Operands, ","))
		switch {
		case form.Inv64:
			left++
			fmt.Fprintf(&out, "left out: %s: invalid in 64-bit mode\n", name)
		case !usable[i]:
			left++
			fmt.Fprintf(&out, "left out: %s: %s\n", name, exclusion(form))
		case f.counts[i] < least:
			short = append(short, fmt.Sprintf("%s: %d times", name, f.counts[i]))
		default:
			covered++
			rarest = min(rarest, f.counts[i])
			if processOnly(form) {
				byProcess++
			}
		}
	}
	fmt.Fprintf(&out, "%d rows of %d covered at least %d times (in fact %d; %d of them with a process of the host), %d left out, %d short; %d cases, %d with an exception\n",
		covered, len(f.gen.forms), least, rarest, byProcess, left, len(short), f.total, f.faults)
	for _, why := range slices.Sorted(maps.Keys(f.emulated)) {
		fmt.Fprintf(&out, "%d cases compared with a process instead of a guest: %s\n", f.emulated[why], why)
	}
	if f.transient > 0 {
		fmt.Fprintf(&out, "%d differences did not come again when their batch was run again\n", f.transient)
	}
	for _, why := range slices.Sorted(maps.Keys(f.free)) {
		fmt.Fprintf(&out, "%d cases not compared: %s\n", f.free[why], why)
	}
	return short, out.String()
}
