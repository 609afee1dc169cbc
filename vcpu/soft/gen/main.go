// Command gen writes exec_gen_unsafe.go: the executors of the hottest integer instructions, one per operation, operand size and operand
// kind, so that none of them branches on any of these. Run it with go generate in package soft.
package main

import (
	"bytes"
	"fmt"
	"go/format"
	"log"
	"os"
)

var out bytes.Buffer

func p(f string, args ...any) { fmt.Fprintf(&out, f+"\n", args...) }

var sizes = []int{8, 16, 32, 64}

// alu lists the operations in the order of their opcode bits, then TEST.
var alu = []string{"Add", "Or", "Adc", "Sbb", "And", "Sub", "Xor", "Cmp", "Test"}

var conds = []string{"O", "NO", "B", "AE", "E", "NE", "BE", "A", "S", "NS", "P", "NP", "L", "GE", "LE", "G"}

func sx(expr string, bits int) string {
	if bits == 64 {
		return expr
	}
	return fmt.Sprintf("uint64(int%d(%s))", bits, expr)
}

func t(bits int) string { return fmt.Sprintf("uint%d", bits) }

// compute returns the statements that turn a and b into res.
func compute(op string, bits int) string {
	expr := map[string]string{"Add": "a + b", "Or": "a | b", "And": "a & b", "Sub": "a - b", "Xor": "a ^ b"}[op]
	switch op {
	case "Adc", "Sbb":
		return fmt.Sprintf("wide, rest := %s(uint64(a), uint64(b), b2u(c.cf()), %d); res := %s(wide)",
			map[string]string{"Adc": "adc", "Sbb": "sbb"}[op], bits/8, t(bits))
	case "Cmp":
		return ""
	case "Test":
		return "res := a & b"
	}
	return "res := " + expr
}

// flags returns the statement that records the flags.
func flags(op string, bits int) string {
	size := bits / 8
	switch op {
	case "Add":
		return fmt.Sprintf("c.fa, c.fb, c.fk = %s, %s, fAdd|%d", sx("res", bits), sx("a", bits), size)
	case "Sub", "Cmp":
		return fmt.Sprintf("c.fa, c.fb, c.fk = %s, %s, fSub|%d", sx("a", bits), sx("b", bits), size)
	case "Adc", "Sbb":
		return fmt.Sprintf("c.fa, c.fb, c.fk = %s, rest, fRes|%d", sx("res", bits), size)
	}
	return fmt.Sprintf("c.fa, c.fb, c.fk = %s, 0, fRes|%d", sx("res", bits), size)
}

func noWrite(op string) bool { return op == "Cmp" || op == "Test" }

// setReg writes a result to register operand a; 32-bit results zero-extend.
func setReg(bits int, v string) string {
	if bits == 32 {
		return fmt.Sprintf("*c.r64(o.a) = uint64(%s)", v)
	}
	return fmt.Sprintf("*c.r%d(o.a) = %s", bits, v)
}

func getReg(bits int, field string) string { return fmt.Sprintf("*c.r%d(o.%s)", bits, field) }

const fn = "func %s(c *CPU, o *op) *op {"

// load declares v from the memory operand.
func load(v string, bits int) {
	p("va := c.ea(o)")
	p("var %s %s", v, t(bits))
	p("if e := &c.rd[va>>pageBits&tlbMask]; e.tag == %s { %s = *(*%s)(unsafe.Add(e.page, va&pageOff)) } else {", lastByte(bits), v, t(bits))
	p("x, ok := c.loadSlow(va, %d); if !ok { return c.fault(o) }; %s = %s(x) }", bits/8, v, t(bits))
}

// lastByte is the page of the last byte of an access at va.
func lastByte(bits int) string {
	if bits == 8 {
		return "va&pageMask"
	}
	return fmt.Sprintf("(va+%d)&pageMask", bits/8-1)
}

// store writes expression v to the memory operand.
func store(v string, bits int) {
	p("va := c.ea(o)")
	p("if e := &c.wr[va>>pageBits&tlbMask]; e.tag == %s { *(*%s)(unsafe.Add(e.page, va&pageOff)) = %s; return next(o) }", lastByte(bits), t(bits), v)
	p("if !c.storeSlow(va, uint64(%s), %d) { return c.fault(o) }", v, bits/8)
}

// modify declares m, a pointer to the memory operand, for reading and writing.
func modify(bits int) {
	p("va := c.ea(o)")
	p("var m *%s", t(bits))
	p("if e := &c.wr[va>>pageBits&tlbMask]; e.tag == %s { m = (*%s)(unsafe.Add(e.page, va&pageOff)) } else {", lastByte(bits), t(bits))
	p("if m = (*%s)(c.rmwSlow(va, %d)); m == nil { return c.fault(o) } }", t(bits), bits/8)
}

// aluForm writes one ALU executor. Forms: RR, RI, RM (register, memory), MR, MI; nf leaves the flags alone.
func aluForm(op, form string, bits int, nf bool) string {
	name := fmt.Sprintf("x%s%s%d", op, form, bits)
	if nf {
		name += "NF"
	}
	p(fn, name)
	switch form {
	case "RR":
		p("a, b := %s, %s", getReg(bits, "a"), getReg(bits, "b"))
	case "RI":
		p("a, b := %s, %s(o.imm)", getReg(bits, "a"), t(bits))
	case "RM":
		load("b", bits)
		p("a := %s", getReg(bits, "a"))
	case "MR", "MI":
		if noWrite(op) {
			load("a", bits)
		} else {
			modify(bits)
			p("a := *m")
		}
		if form == "MR" {
			p("b := %s", getReg(bits, "b"))
		} else {
			p("b := %s(o.imm)", t(bits))
		}
	}
	if s := compute(op, bits); s != "" {
		p("%s", s)
	}
	if !noWrite(op) {
		if form[0] == 'R' {
			p("%s", setReg(bits, "res"))
		} else {
			p("*m = res")
			p("if c.bounceSize != 0 { c.commit() }")
		}
	}
	if !nf {
		p("%s", flags(op, bits))
	}
	p("return next(o)\n}\n")
	return name
}

// table writes a table of executors indexed by operation and size.
func table(name string, rows [][]string) {
	p("var %s = [...][4]execFn{", name)
	for _, r := range rows {
		p("{%s, %s, %s, %s},", r[0], r[1], r[2], r[3])
	}
	p("}\n")
}

func genALU() {
	for _, form := range []string{"RR", "RI", "RM", "MR", "MI"} {
		for _, nf := range []bool{false, true} {
			if nf && form[0] == 'M' {
				continue
			}
			var rows [][]string
			for _, op := range alu {
				var row []string
				for _, b := range sizes {
					if nf && (noWrite(op) || op == "Adc" || op == "Sbb") {
						row = append(row, "nil")
						continue
					}
					row = append(row, aluForm(op, form, b, nf))
				}
				rows = append(rows, row)
			}
			name := "alu" + form
			if nf {
				name += "NF"
			}
			table(name, rows)
		}
	}
}

func genMov() {
	var rows [5][]string
	for _, b := range sizes {
		p(fn, fmt.Sprintf("xMovRR%d", b))
		p("%s; return next(o)\n}\n", setReg(b, getReg(b, "b")))
		p(fn, fmt.Sprintf("xMovRI%d", b))
		p("%s; return next(o)\n}\n", setReg(b, fmt.Sprintf("uint%d(o.imm)", b)))
		p(fn, fmt.Sprintf("xMovRM%d", b))
		load("v", b)
		p("%s; return next(o)\n}\n", setReg(b, "v"))
		p(fn, fmt.Sprintf("xMovMR%d", b))
		store(getReg(b, "b"), b)
		p("return next(o)\n}\n")
		p(fn, fmt.Sprintf("xMovMI%d", b))
		store(fmt.Sprintf("uint%d(o.imm)", b), b)
		p("return next(o)\n}\n")
		for i, f := range []string{"RR", "RI", "RM", "MR", "MI"} {
			rows[i] = append(rows[i], fmt.Sprintf("xMov%s%d", f, b))
		}
	}
	for i, f := range []string{"RR", "RI", "RM", "MR", "MI"} {
		p("var mov%s = [4]execFn{%s, %s, %s, %s}\n", f, rows[i][0], rows[i][1], rows[i][2], rows[i][3])
	}
	// Extensions: table index is [source size][destination size], destination 16, 32 or 64.
	for _, kind := range []string{"Z", "S"} {
		for _, form := range []string{"R", "M"} {
			p("var mov%sX%s = [3][4]execFn{", kind, form)
			for _, s := range []int{8, 16, 32} {
				p("{nil, %s, %s, %s},", ext(kind, form, s, 16), ext(kind, form, s, 32), ext(kind, form, s, 64))
			}
			p("}\n")
		}
	}
	for _, kind := range []string{"Z", "S"} {
		for _, form := range []string{"R", "M"} {
			for _, s := range []int{8, 16, 32} {
				for _, d := range []int{16, 32, 64} {
					p(fn, ext(kind, form, s, d))
					if form == "R" {
						p("v := %s", getReg(s, "b"))
					} else {
						load("v", s)
					}
					if kind == "Z" {
						p("%s; return next(o)\n}\n", setReg(d, fmt.Sprintf("uint%d(v)", d)))
					} else {
						p("%s; return next(o)\n}\n", setReg(d, fmt.Sprintf("uint%d(int%d(v))", d, s)))
					}
				}
			}
		}
	}
}

func ext(kind, form string, s, d int) string { return fmt.Sprintf("xMov%sX%s%dTo%d", kind, form, s, d) }

// unary writes INC, DEC, NEG and NOT.
func genUnary() {
	for _, op := range []string{"Inc", "Dec", "Neg", "Not"} {
		for _, form := range []string{"R", "M"} {
			for _, nf := range []bool{false, true} {
				if nf && (form == "M" || op == "Not") {
					continue
				}
				suffix := ""
				if nf {
					suffix = "NF"
				}
				var row []string
				for _, b := range sizes {
					name := fmt.Sprintf("x%s%s%d%s", op, form, b, suffix)
					row = append(row, name)
					p(fn, name)
					if form == "R" {
						p("a := %s", getReg(b, "a"))
					} else {
						modify(b)
						p("a := *m")
					}
					p("res := %s", map[string]string{"Inc": "a + 1", "Dec": "a - 1", "Neg": "-a", "Not": "^a"}[op])
					if form == "R" {
						p("%s", setReg(b, "res"))
					} else {
						p("*m = res")
						p("if c.bounceSize != 0 { c.commit() }")
					}
					if !nf {
						unaryFlags(op, b)
					}
					p("return next(o)\n}\n")
				}
				p("var un%s%s%s = [4]execFn{%s, %s, %s, %s}\n", op, form, suffix, row[0], row[1], row[2], row[3])
			}
		}
	}
}

func unaryFlags(op string, b int) {
	switch op {
	case "Inc":
		p("rest := b2u(c.cf()) | b2u(res == 1<<%d)<<11 | b2u(res&15 == 0)<<4", b-1)
		p("c.fa, c.fb, c.fk = %s, rest, fRes|%d", sx("res", b), b/8)
	case "Dec":
		p("rest := b2u(c.cf()) | b2u(a == 1<<%d)<<11 | b2u(a&15 == 0)<<4", b-1)
		p("c.fa, c.fb, c.fk = %s, rest, fRes|%d", sx("res", b), b/8)
	case "Neg":
		p("c.fa, c.fb, c.fk = 0, %s, fSub|%d", sx("a", b), b/8)
	}
}

// genShift writes SHL, SHR and SAR of a register by a non-zero immediate that is below the operand size. AF, which the SDM leaves undefined, is set as AMD
// processors set it.
func genShift() {
	for _, op := range []string{"Shl", "Shr", "Sar"} {
		for _, nf := range []bool{false, true} {
			suffix := ""
			if nf {
				suffix = "NF"
			}
			var row []string
			for _, b := range sizes {
				name := fmt.Sprintf("x%sRI%d%s", op, b, suffix)
				row = append(row, name)
				p(fn, name)
				p("a, n := %s, o.imm&63", getReg(b, "a"))
				switch op {
				case "Shl":
					p("res := a << n")
				case "Shr":
					p("res := a >> n")
				case "Sar":
					p("res := uint%d(int%d(a) >> n)", b, b)
				}
				p("%s", setReg(b, "res"))
				if !nf {
					switch op {
					case "Shl":
						p("cf := uint64(a>>((%d-n)&63)) & 1", b)
						p("rest := cf | flagAF | (cf^uint64(res>>%d))<<11", b-1)
					case "Shr":
						p("cf := uint64(a>>((n-1)&63)) & 1")
						p("rest := cf | flagAF | uint64((res^res<<1)>>%d&1)<<11", b-1)
					case "Sar":
						p("rest := uint64(int%d(a)>>((n-1)&63))&1 | flagAF", b)
					}
					p("c.fa, c.fb, c.fk = %s, rest, fRes|%d", sx("res", b), b/8)
				}
				p("return next(o)\n}\n")
			}
			p("var sh%sRI%s = [4]execFn{%s, %s, %s, %s}\n", op, suffix, row[0], row[1], row[2], row[3])
		}
	}
}

// genRotate writes ROL and ROR of a register by a constant below the operand size: they change CF and OF only.
func genRotate() {
	for _, op := range []string{"Rol", "Ror"} {
		for _, nf := range []bool{false, true} {
			suffix := ""
			if nf {
				suffix = "NF"
			}
			var row []string
			for _, b := range sizes {
				name := fmt.Sprintf("x%sRI%d%s", op, b, suffix)
				row = append(row, name)
				p(fn, name)
				if op == "Rol" {
					p("res := bits.RotateLeft%d(%s, int(o.imm))", b, getReg(b, "a"))
				} else {
					p("res := bits.RotateLeft%d(%s, -int(o.imm))", b, getReg(b, "a"))
				}
				if !nf && op == "Rol" {
					p("c.setCFOF(uint64(res), uint64(res^res>>%d))", b-1)
				} else if !nf {
					p("c.setCFOF(uint64(res>>%d), uint64(res>>%d^res>>%d))", b-1, b-1, b-2)
				}
				p("%s", setReg(b, "res"))
				p("return next(o)\n}\n")
			}
			p("var sh%sRI%s = [4]execFn{%s, %s, %s, %s}\n", op, suffix, row[0], row[1], row[2], row[3])
		}
	}
}

// condExpr is the condition on operands a and b of a CMP, or on the result r of a TEST, sign-extended to 64 bits, or on the plain result res of others.
func condExpr(cc int, like string, b int) string {
	if like == "Res" {
		return map[string]string{"E": "res == 0", "NE": "res != 0", "S": fmt.Sprintf("int%d(res) < 0", b), "NS": fmt.Sprintf("int%d(res) >= 0", b)}[conds[cc]]
	}
	if like == "Cmp" {
		res := "a - b"
		if b != 64 {
			res = fmt.Sprintf("uint64(int%d(a - b))", b)
		}
		return map[string]string{"B": "a < b", "AE": "a >= b", "E": "a == b", "NE": "a != b", "BE": "a <= b", "A": "a > b",
			"S": "int64(" + res + ") < 0", "NS": "int64(" + res + ") >= 0",
			"L": "int64(a) < int64(b)", "GE": "int64(a) >= int64(b)", "LE": "int64(a) <= int64(b)", "G": "int64(a) > int64(b)"}[conds[cc]]
	}
	return map[string]string{"B": "false", "AE": "true", "E": "r == 0", "NE": "r != 0", "BE": "r == 0", "A": "r != 0",
		"S": "int64(r) < 0", "NS": "int64(r) >= 0", "L": "int64(r) < 0", "GE": "int64(r) >= 0", "LE": "int64(r) <= 0", "G": "int64(r) > 0"}[conds[cc]]
}

// fusedOps are the operations that are fused with the Jcc that follows, each with its operand forms.
var fusedOps = []struct {
	name  string
	forms []string
	like  string // Cmp or Test: where the condition comes from; Add, Inc and Dec have their own
}{
	{"Cmp", []string{"RR", "RI", "RM", "MI", "MR"}, "Cmp"},
	{"Test", []string{"RR", "RI", "MI", "MR"}, "Test"},
	{"Sub", []string{"RR", "RI"}, "Cmp"},
	{"And", []string{"RR", "RI"}, "Test"},
	{"Add", []string{"RR", "RI"}, "Res"},
	{"Inc", []string{"R"}, "Res"},
	{"Dec", []string{"R"}, "Res"},
}

// fusable says whether an operation is fused with a condition at a size.
func fusable(like string, cc, b int) bool {
	n := conds[cc]
	switch {
	case b == 16 || condExpr(cc, like, b) == "":
		return false
	case like == "Test":
		return n != "B" && n != "AE"
	}
	return true
}

// genFused writes compare, test and arithmetic instructions fused with the Jcc that follows.
func genFused() {
	for _, op := range fusedOps {
		for _, form := range op.forms {
			p("var fused%s%s = [16][4]execFn{", op.name, form)
			for cc := range conds {
				row := ""
				for _, b := range sizes {
					if fusable(op.like, cc, b) {
						row += fmt.Sprintf("x%s%s%dJ%s, ", op.name, form, b, conds[cc])
					} else {
						row += "nil, "
					}
				}
				p("{%s},", row)
			}
			p("}\n")
			for cc := range conds {
				for _, b := range sizes {
					if fusable(op.like, cc, b) {
						fused(op.name, op.like, form, cc, b)
					}
				}
			}
		}
	}
}

func fused(op, like, form string, cc, b int) {
	p(fn, fmt.Sprintf("x%s%s%dJ%s", op, form, b, conds[cc]))
	x, y := getReg(b, "a"), getReg(b, "b")
	switch form {
	case "RI":
		y = fmt.Sprintf("%s(o.imm)", t(b))
	case "RM":
		load("m", b)
		y = "m"
	case "MI":
		load("m", b)
		x, y = "m", fmt.Sprintf("%s(o.imm)", t(b))
	case "MR":
		load("m", b)
		x = "m"
	}
	switch like {
	case "Cmp":
		p("a, b := %s, %s", sx(x, b), sx(y, b))
		p("c.fa, c.fb, c.fk = a, b, fSub|%d", b/8)
		if op == "Sub" {
			p("%s", setReg(b, fmt.Sprintf("uint%d(a - b)", b)))
		}
	case "Test":
		p("v := %s & %s", x, y)
		p("r := %s", sx("v", b))
		p("c.fa, c.fb, c.fk = r, 0, fRes|%d", b/8)
		if op == "And" {
			p("%s", setReg(b, "v"))
		}
	case "Res":
		p("a := %s", x)
		switch op {
		case "Add":
			p("res := a + %s", y)
			p("%s", flags("Add", b))
		case "Inc":
			p("res := a + 1")
			unaryFlags("Inc", b)
		case "Dec":
			p("res := a - 1")
			unaryFlags("Dec", b)
		}
		p("%s", setReg(b, "res"))
	}
	p("if %s { return c.taken(o) }", condExpr(cc, like, b))
	p("return c.notTaken(o)\n}\n")
}

// genCond writes Jcc, SETcc and CMOVcc on the lazy flags.
func genCond() {
	p("var jcc = [16]execFn{")
	for _, n := range conds {
		p("xJ%s,", n)
	}
	p("}\n")
	p("var setccR = [16]execFn{")
	for _, n := range conds {
		p("xSet%s,", n)
	}
	p("}\n")
	for cc, n := range conds {
		p(fn, "xJ"+n)
		p("if c.cond(%d) { return c.taken(o) }; return c.notTaken(o)\n}\n", cc)
		p(fn, "xSet"+n)
		p("*c.r8(o.a) = uint8(b2u(c.cond(%d))); return next(o)\n}\n", cc)
	}
}

func main() {
	log.SetFlags(0)
	p("// Code generated by gen/main.go; DO NOT EDIT.\n\npackage soft\n\nimport (\n\"math/bits\"\n\"unsafe\"\n)\n")
	genALU()
	genMov()
	genUnary()
	genShift()
	genRotate()
	genFused()
	genCond()
	src, err := format.Source(out.Bytes())
	if err != nil {
		log.Fatalf("%v in:\n%s", err, out.Bytes())
	}
	if err := os.WriteFile("exec_gen_unsafe.go", src, 0o644); err != nil {
		log.Fatal(err)
	}
}
