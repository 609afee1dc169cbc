package images

import (
	"bytes"
	"debug/elf"
	"testing"
)

func TestGuestKernelIsAnELFForTheMachine(t *testing.T) {
	k, err := GuestKernel()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(checkedLoad(t, k.File)))
	if err != nil {
		t.Fatal(err)
	}
	if f.Machine != elf.EM_X86_64 || f.Type != elf.ET_EXEC {
		t.Errorf("machine %v, type %v", f.Machine, f.Type)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Paddr < 16<<20 {
			t.Errorf("segment at %#x, below the documented 16 MiB", p.Paddr)
		}
	}
	s := k.Symbols
	if s.CurrentTask == 0 || s.PIDOffset == 0 || s.TGIDOffset != s.PIDOffset+4 || s.CommOffset == 0 || s.CommLen != 16 || s.Text >= s.TextEnd {
		t.Errorf("symbols %+v", s)
	}
	if len(kernelELF) > 4<<20 {
		t.Errorf("the compressed kernel has %d bytes; keep it below 4 MiB", len(kernelELF))
	}
}

func TestGuestKernelFunctionsHaveNames(t *testing.T) {
	f, err := GuestKernelFunctions()
	if err != nil {
		t.Fatal(err)
	}
	addr, ok := f.Address("do_syscall_64")
	if !ok {
		t.Fatal("no do_syscall_64")
	}
	if name, off, ok := f.At(addr + 3); !ok || name != "do_syscall_64" || off != 3 {
		t.Errorf("At(%#x) = %q, %d, %v", addr+3, name, off, ok)
	}
	if name, _, ok := f.At(0x400000); ok {
		t.Errorf("a user address is in %s", name)
	}
	if _, ok := f.Address("no_such_function"); ok {
		t.Error("a function that does not exist has an address")
	}
}

func TestParseKernelSymbolsRejects(t *testing.T) {
	for name, text := range map[string]string{
		"text that is not JSON":        "{",
		"an address that is no number": `{"current_task":"x","text":"0x0","etext":"0x100"}`,
	} {
		if _, err := parseKernelSymbols([]byte(text)); err == nil {
			t.Errorf("accepted %s", name)
		}
	}
}

func TestParseSystemMapRejects(t *testing.T) {
	for name, text := range map[string]string{
		"a line without a name": "0000000000000010\n",
		"a line out of order":   "0000000000000010 a\n0000000000000008 b\n",
		"an address in words":   "ten a\n",
	} {
		if _, err := parseSystemMap(text); err == nil {
			t.Errorf("accepted %s", name)
		}
	}
}
