// Package cpufuzz compares the software CPU with a real one, instruction by instruction.
//
// Under KVM the user-mode code of a guest runs on the host's processor itself, so a bare virtual machine whose ring 3 executes one random instruction is an
// oracle for vcpu/soft. The machine here has nothing but page tables, descriptor tables and exception stubs (machine.go). A batch of cases is laid out in
// its memory: each case is a slot with a page of code and a page of data. The code of a slot loads every register, the flags and the FPU from the data page,
// executes the instruction under test, stores everything again, and jumps to the next slot. An exception goes through a ring 0 stub that notes vector, error code,
// CR2 and the frame and resumes at the storing part. So a whole batch runs without an exit, and the same bytes run on both processors; afterwards
// the memories are compared.
//
// Some KVM hosts answer in place of the processor: those without hardware virtualization emulate whatever raises #GP or #AC at ring 3, and turn into #UD what their
// emulator lacks. These cases (1.4 % of all), and the rows that such a host cannot run at ring 3 as a guest (far transfers, ports, segment registers, INT), are
// executed by a process of the host instead: the same slots at the same addresses, with signals in place of the stubs (native.go). It cannot tell error codes.
//
// Cases are generated from the software CPU's own decoder table (soft.Forms): every row, with random operands, prefixes, addressing forms, values chosen to
// be interesting, alignment checks on now and then, and addresses that fault (gen.go). What the manual leaves undefined is not compared; undefined.go lists it, and the
// rows that neither guest nor process of a host shows as the model has them, each with its reason. Coverage by row is counted and reported.
//
// TestSmall runs a seeded set in go test; TestLong (make fuzz-cpu) runs five million cases and insists on a thousand for each row.
package cpufuzz
