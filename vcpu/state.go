package vcpu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Indices of State.GPR, in the order of the instruction encoding (SDM vol. 2, table 2-2).
const (
	RAX = iota
	RCX
	RDX
	RBX
	RSP
	RBP
	RSI
	RDI
	R8
	R9
	R10
	R11
	R12
	R13
	R14
	R15
)

// Indices of State.Seg, in the order of the instruction encoding.
const (
	ES = iota
	CS
	SS
	DS
	FS
	GS
)

// Segment is a segment register with its hidden part. Attr has the layout of bits 8–23 of a descriptor's second doubleword,
// shifted right by 8 with the limit bits cleared (type, S, DPL, P; AVL, L, D/B, G in bits 12–15). Limit is in bytes, already scaled.
type Segment struct {
	Base     uint64
	Limit    uint32
	Selector uint16
	Attr     uint16
	Unusable bool
}

// DescriptorTable is GDTR or IDTR.
type DescriptorTable struct {
	Base  uint64
	Limit uint16
}

// State is the architectural state of the processor, all of it: two processors with equal States and equal RAM continue alike.
// It is encoded field by field in declaration order, little endian; that encoding is what snapshots store and state digests hash.
type State struct {
	GPR        [16]uint64
	RIP        uint64
	RFLAGS     uint64
	Seg        [6]Segment
	LDTR, TR   Segment
	GDTR, IDTR DescriptorTable

	CR0, CR2, CR3, CR4, CR8 uint64
	EFER                    uint64
	DR                      [4]uint64
	DR6, DR7                uint64

	STAR, LSTAR, CSTAR, SFMASK           uint64
	KernelGSBase                         uint64
	SysenterCS, SysenterESP, SysenterEIP uint64
	PAT                                  uint64
	TSCAux                               uint64
	MiscEnable                           uint64

	// FX is the 512-byte FXSAVE64 image (SDM vol. 1, 10.5.1). Bytes 464–511 are zero.
	FX [512]byte

	Halted bool
	// Shadow: the instruction just executed was STI or MOV/POP SS, so that interrupts are held off for one instruction.
	Shadow bool

	// Count is the position on the work clock.
	Count uint64
}

// StateSize is the length in bytes of an encoded State.
var StateSize = binary.Size(State{})

// MarshalBinary encodes the state canonically.
func (s *State) MarshalBinary() ([]byte, error) {
	var b bytes.Buffer
	b.Grow(StateSize)
	if err := binary.Write(&b, binary.LittleEndian, s); err != nil {
		return nil, fmt.Errorf("encode processor state: %w", err)
	}
	return b.Bytes(), nil
}

// UnmarshalBinary is the inverse of MarshalBinary.
func (s *State) UnmarshalBinary(p []byte) error {
	if len(p) != StateSize {
		return errors.New("processor state has the wrong length")
	}
	if err := binary.Read(bytes.NewReader(p), binary.LittleEndian, s); err != nil {
		return fmt.Errorf("decode processor state: %w", err)
	}
	return nil
}
