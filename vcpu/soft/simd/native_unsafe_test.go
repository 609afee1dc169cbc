//go:build amd64 && linux

package simd

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// native runs machine code for rows of the table on the processor of this machine.
type native struct {
	page []byte
}

func newNative(t testing.TB) *native {
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Skipf("needs executable memory: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(page); err != nil {
			t.Error(err)
		}
	})
	copy(page[mxcsrAt:], append([]byte{
		0x49, 0x89, 0xd0, // mov r8, rdx
		0x41, 0x0f, 0xae, 0x58, 0x78, // stmxcsr [r8+120]
	}, stubReturn...))
	return &native{page}
}

var (
	stubLoad = []byte{
		0x49, 0x89, 0xd0, // mov r8, rdx
		0x41, 0x0f, 0x10, 0x48, 0x10, // movups xmm1, [r8+16]
		0x41, 0x0f, 0x10, 0x50, 0x20, // movups xmm2, [r8+32]
		0x41, 0x0f, 0x10, 0x40, 0x30, // movups xmm0, [r8+48]
		0x4d, 0x8b, 0x48, 0x50, // mov r9, [r8+80]
		0x4d, 0x8b, 0x50, 0x58, // mov r10, [r8+88]
		0x49, 0x8b, 0x40, 0x60, // mov rax, [r8+96]
		0x49, 0x8b, 0x50, 0x68, // mov rdx, [r8+104]
		0x49, 0x8b, 0x48, 0x70, // mov rcx, [r8+112]
		0x49, 0x8d, 0xb8, 0x90, 0, 0, 0, // lea rdi, [r8+144]
	}
	stubLoadMMX = []byte{
		0x41, 0x0f, 0x6f, 0x88, 0xa0, 0, 0, 0, // movq mm1, [r8+160]
		0x41, 0x0f, 0x6f, 0x90, 0xa8, 0, 0, 0, // movq mm2, [r8+168]
	}
	stubEnter = []byte{
		0x41, 0x0f, 0xae, 0x50, 0x78, // ldmxcsr [r8+120]
		0x41, 0xff, 0xb0, 0x80, 0, 0, 0, // push [r8+128]
		0x9d, // popfq
	}
	stubLeave = []byte{
		0x9c,                            // pushfq
		0x41, 0x8f, 0x80, 0x80, 0, 0, 0, // pop [r8+128]
		0x41, 0x0f, 0xae, 0x58, 0x78, // stmxcsr [r8+120]
		0x41, 0x0f, 0x11, 0x48, 0x10, // movups [r8+16], xmm1
		0x41, 0x0f, 0x11, 0x40, 0x30, // movups [r8+48], xmm0
		0x4d, 0x89, 0x48, 0x50, // mov [r8+80], r9
		0x49, 0x89, 0x48, 0x70, // mov [r8+112], rcx
	}
	stubStoreMMX = []byte{
		0x41, 0x0f, 0x7f, 0x88, 0xa0, 0, 0, 0, // movq [r8+160], mm1
		0x0f, 0x77, // emms
	}
	stubReturn = []byte{
		0x41, 0x0f, 0xae, 0x90, 0xb0, 0, 0, 0, // ldmxcsr [r8+176]
		0x45, 0x0f, 0x57, 0xff, // xorps xmm15, xmm15
		0xc3, // ret
	}
)

// load installs the stub for one instruction.
func (n *native) load(instruction []byte, mmx bool) {
	code := append([]byte(nil), stubLoad...)
	if mmx {
		code = append(code, stubLoadMMX...)
	}
	code = append(code, stubEnter...)
	code = append(code, instruction...)
	code = append(code, stubLeave...)
	if mmx {
		code = append(code, stubStoreMMX...)
	}
	copy(n.page, append(code, stubReturn...))
}

// Where the parts lie in the page: the stub, the one that reads MXCSR, and the data, which is aligned.
const (
	stubAt  = 0
	mxcsrAt = 1024
	dataAt  = 2048
)

// run executes the installed stub on b.
func (n *native) run(b *block) { n.call(b, stubAt) }

// call executes the code at an offset of the page on a copy of b. It does not allocate.
func (n *native) call(b *block, at int) {
	in := (*block)(unsafe.Pointer(&n.page[dataAt]))
	*in = *b
	in.code, in.normal = uintptr(unsafe.Pointer(&n.page[at])), 0x1f80
	f := *(*func())(unsafe.Pointer(&in))
	f()
	*b = *in
}

// runTrapping is run for stubs whose instruction may raise an unmasked SIMD exception. The signal becomes a panic of the Go runtime, because
// the stub looks to it like a call of a bad address; MXCSR then still has the flags, and no register was written.
func (n *native) runTrapping(b *block) (trapped bool) {
	defer func() {
		if recover() != nil {
			trapped = true
			n.call(b, mxcsrAt) // before anything that computes or allocates
		}
	}()
	n.run(b)
	return false
}

// encode gives the machine code of a row with destination register 1 (r9) and source register 2 (r10), or the memory operand.
func encode(op *Op, memory bool, imm uint8) []byte {
	var code []byte
	if op.W == W16 && op.Prefix != P66 {
		code = append(code, 0x66)
	}
	if p := [...]byte{NP: 0, P66: 0x66, PF3: 0xf3, PF2: 0xf2}[op.Prefix]; p != 0 {
		code = append(code, p)
	}
	first := op.Dst
	if op.First != None {
		first = op.First
	}
	reg, rm := operandNumber(first, 1), operandNumber(op.Src, 2)
	if isRM(first) {
		reg, rm = operandNumber(op.Src, 2), operandNumber(first, 1)
	}
	if op.Ext >= 0 {
		reg = byte(op.Ext)
	}
	rex := byte(0x40) | reg>>3<<2
	if op.W == W1 {
		rex |= 8
	}
	modrm := 0xc0 | reg&7<<3 | rm&7
	if memory {
		modrm = 0x80 | reg&7<<3
		rex |= 1
	} else {
		rex |= rm >> 3
	}
	code = append(code, rex)
	switch op.Map {
	case Map0F:
		code = append(code, 0x0f)
	case Map0F38:
		code = append(code, 0x0f, 0x38)
	case Map0F3A:
		code = append(code, 0x0f, 0x3a)
	}
	code = append(code, op.Opcode, modrm)
	if memory {
		code = binary.LittleEndian.AppendUint32(code, 144)
	}
	if op.Imm {
		code = append(code, imm)
	}
	return code
}

func operandNumber(l Loc, vector byte) byte {
	if isGPR(l) {
		return vector + 8
	}
	return vector
}

// amdZen4 reports whether the host's estimates (RCPPS, RSQRTPS) are the ones that package fp implements.
func amdZen4() bool {
	info, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && bytes.Contains(info, []byte("AuthenticAMD")) && bytes.Contains(info, []byte("avx512_bf16"))
}
