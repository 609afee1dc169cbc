package simd

// index holds, for each map, prefix and opcode, the rows in the order of Table.
var index = buildIndex()

func buildIndex() (idx [4][4][256][]*Op) {
	for i := range Table {
		op := &Table[i]
		slot := &idx[op.Map][op.Prefix][op.Opcode]
		*slot = append(*slot, op)
	}
	return idx
}

// Has reports whether the map has rows for this opcode under any prefix: whether the opcode belongs to this table at all.
func Has(m Map, opcode uint8) bool {
	for p := NP; p <= PF2; p++ {
		if len(index[m&3][p][opcode]) > 0 {
			return true
		}
	}
	return false
}

// Lookup finds the row of an instruction, or nil if there is none (#UD, or an instruction that is not the table's). p is the mandatory prefix:
// the last F2 or F3 if there is one, else 66, else none. size16 says that a 66 prefix is present (beside F2 or F3), rexW that REX.W is set.
func Lookup(m Map, p Prefix, opcode, modrm uint8, rexW, size16 bool) *Op {
	for _, op := range index[m&3][p&3][opcode] {
		if op.matches(modrm, rexW, size16) {
			return op
		}
	}
	return nil
}

func (op *Op) matches(modrm uint8, rexW, size16 bool) bool {
	isReg := modrm>>6 == 3
	switch {
	case op.Mod == RegOnly && !isReg, op.Mod == MemOnly && isReg:
		return false
	case op.Ext >= 0 && int8(modrm>>3&7) != op.Ext:
		return false
	case op.W == W16:
		return size16 && !rexW
	case op.W == W0:
		return !rexW
	case op.W == W1:
		return rexW
	}
	return true
}
