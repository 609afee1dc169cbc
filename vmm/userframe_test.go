package vmm

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"
)

// mapped is guest memory that holds p at base.
func mapped(base uint64, p []byte) func(va uint64, n int) []byte {
	return func(va uint64, n int) []byte {
		if off := va - base; off < uint64(len(p)) && n > 0 {
			return p[off:min(off+uint64(n), uint64(len(p)))]
		}
		return nil
	}
}

// tinyLibrary is an ELF file with one function, mapped as it is in the file.
func tinyLibrary(t testing.TB, bias uint64) []byte {
	t.Helper()
	var b bytes.Buffer
	write := func(at int, v any) {
		b.Write(make([]byte, at-b.Len()))
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	write(0, elf.Header64{Ident: [16]byte{0x7f, 'E', 'L', 'F'}, Phoff: 64, Phentsize: 56, Phnum: 3})
	write(64, []elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Filesz: 0x2000, Memsz: 0x2000},
		{Type: uint32(elf.PT_NOTE), Vaddr: 0x200, Filesz: 24},
		{Type: uint32(elf.PT_DYNAMIC), Vaddr: 0x300, Memsz: 5 * 16},
	})
	write(0x200, []uint32{4, 4, 3})
	write(0x20c, []byte("GNU\x00\xde\xad\xbe\xef"))
	write(0x300, []elf.Dyn64{{Tag: int64(elf.DT_SYMTAB), Val: bias + 0x400}, {Tag: int64(elf.DT_STRTAB), Val: 0x430}, {Tag: int64(elf.DT_SONAME), Val: 5}, {}})
	write(0x400, []elf.Sym64{{}, {Name: 1, Info: byte(elf.STT_FUNC), Shndx: 1, Value: 0x1100, Size: 0x20}})
	write(0x430, []byte("\x00fun\x00libtiny.so\x00"))
	write(0x2000, []byte{})
	return b.Bytes()
}

func TestAFunctionIsNamedFromTheGuestsMemory(t *testing.T) {
	const base = 0x7f0000000000
	for _, c := range []struct {
		va   uint64
		want string
	}{{base + 0x1100, "fun+0x0"}, {base + 0x111f, "fun+0x1f"}, {base + 0x1120, ""}} {
		mod := &module{read: mapped(base, tinyLibrary(t, base))}
		if !mod.parse(base, c.va) {
			t.Fatalf("%#x is in no module", c.va)
		}
		if got := mod.function(c.va - mod.bias); got != c.want || mod.name != "libtiny.so" || !bytes.Equal(mod.buildID, []byte{0xde, 0xad, 0xbe, 0xef}) {
			t.Errorf("%#x: function %q of %q, build ID %x; want %q", c.va, got, mod.name, mod.buildID, c.want)
		}
	}
	if mod := (&module{read: mapped(base, tinyLibrary(t, base))}); mod.parse(base, base+0x2000) {
		t.Error("an address behind the library is in it")
	}
}

// Programs that the guest runs are hostile input.
func FuzzModule(f *testing.F) {
	const base = 0x400000
	f.Add(tinyLibrary(f, base), uint16(0x1100))
	f.Fuzz(func(t *testing.T, p []byte, off uint16) {
		mod := &module{read: mapped(base, p)}
		if mod.parse(base, base+uint64(off)) {
			_ = mod.function(uint64(off))
		}
	})
}
