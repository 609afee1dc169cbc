//go:build amd64 && linux

package fp

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nativeX87 runs single x87 instructions on the processor of this machine, from and to a state in FSAVE format. Nothing traps: the image
// must not have an exception pending, and one raised by the instruction is cleared by FNSAVE.
type nativeX87 struct {
	page []byte
}

// Offsets from the data area's start, which the stub finds in RDX (the context register of Go's calling convention).
const (
	offRAX    = 16
	offRFLAGS = 24
	offState  = 256
	offMem    = 512
	offFX     = 1024
	dataArea  = 1024
)

func newNativeX87(t testing.TB) *nativeX87 {
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Skipf("needs executable memory: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(page); err != nil {
			t.Error(err)
		}
	})
	return &nativeX87{page}
}

// run executes opcode and ModRM (the memory operand is o.Mem) on x.
func (n *nativeX87) run(opcode, modrm uint8, x *X87, o *Operands) {
	n.execute(encodeX87(opcode, modrm, o.Size16), x, o)
}

func encodeX87(opcode, modrm uint8, size16 bool) []byte {
	instruction := []byte{opcode, modrm}
	if modrm>>6 != 3 {
		instruction = []byte{0x41, opcode, modrm&0x38 | 0x80, offMem & 0xff, offMem >> 8, 0, 0} // [r8+offMem]
		if size16 {
			instruction = append([]byte{0x66}, instruction...)
		}
	}
	return instruction
}

// fxsave and fxrstor execute FXSAVE64 and FXRSTOR64 on x. XMM15 and MXCSR of the image must be what Go expects: zero and 0x1f80.
func (n *nativeX87) fxsave(x *X87) (image [512]byte) {
	n.execute([]byte{0x49, 0x0f, 0xae, 0x80, offFX & 0xff, offFX >> 8, 0, 0}, x, &Operands{})
	copy(image[:], n.page[dataArea+offFX:])
	return image
}

func (n *nativeX87) fxrstor(x *X87, image *[512]byte) {
	copy(n.page[dataArea+offFX:], image[:])
	n.execute([]byte{0x49, 0x0f, 0xae, 0x88, offFX & 0xff, offFX >> 8, 0, 0}, x, &Operands{})
}

// execute runs an instruction that may use R8, which points at the data area.
func (n *nativeX87) execute(instruction []byte, x *X87, o *Operands) {
	code := append([]byte{
		0x49, 0x89, 0xd0, // mov r8, rdx
		0x41, 0xdd, 0xa0, offState & 0xff, offState >> 8, 0, 0, // frstor [r8+offState]
		0x41, 0xff, 0x70, offRFLAGS, // push [r8+offRFLAGS]
		0x9d, // popfq
	}, instruction...)
	code = append(code,
		0x9c,                        // pushfq
		0x41, 0x8f, 0x40, offRFLAGS, // pop [r8+offRFLAGS]
		0x49, 0x89, 0x40, offRAX, // mov [r8+offRAX], rax
		0x41, 0xdd, 0xb0, offState&0xff, offState>>8, 0, 0, // fnsave [r8+offState]
		0xc3, // ret
	)
	copy(n.page, code)
	data := n.page[dataArea:]
	binary.LittleEndian.PutUint64(data, uint64(uintptr(unsafe.Pointer(&n.page[0]))))
	binary.LittleEndian.PutUint64(data[offRFLAGS:], 0x202|uint64(o.EFLAGS))
	var image Operands
	saved := *x
	fnsave(&saved, 0, &image)
	copy(data[offState:], image.Mem[:])
	copy(data[offMem:], o.Mem[:])

	p := unsafe.Pointer(&data[0])
	f := *(*func())(unsafe.Pointer(&p))
	f()

	copy(image.Mem[:], data[offState:])
	frstor(x, 0, &image)
	copy(o.Mem[:], data[offMem:])
	o.EFLAGS = uint32(binary.LittleEndian.Uint64(data[offRFLAGS:])) & ArithFlags
	o.AX = uint16(binary.LittleEndian.Uint64(data[offRAX:]))
}
