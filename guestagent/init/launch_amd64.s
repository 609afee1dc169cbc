#include "textflag.h"

// A step is eight words: number of the system call, six arguments, and what to do when it fails. The first step's place is
// taken by the header: descriptor and address of the report, exit code. See launch_unsafe.go.

// Words of a step and of the header, and the kinds of steps.
#define NR	0
#define A1	8
#define A2	16
#define A3	24
#define A4	32
#define A5	40
#define A6	48
#define KIND	56
#define SIZE	64

#define REPORT_FD	0
#define REPORT_AT	8
#define EXIT_CODE	16

#define OPTIONAL	1
#define PROBE	2
#define TRY	3
#define GIVE_UP	4

#define SYS_CLONE	56
#define SYS_WRITE	1
#define SYS_EXIT_GROUP	231
#define CLONE_FS	0x200
#define SIGCHLD	17
#define ENOENT	2
#define EACCES	13
#define ENOTDIR	20

// func launcherCode() (start, end uintptr)
TEXT ·launcherCode(SB), NOSPLIT, $0-16
	LEAQ	·forkLauncher(SB), AX
	MOVQ	AX, start+0(FP)
	LEAQ	launcherEnd<>(SB), AX
	MOVQ	AX, end+8(FP)
	RET

// func forkLauncher(program uintptr) (result uintptr)
//
// The child has no stack: it uses registers only. BX is the step, R13 the program, R12 why no path could be executed.
TEXT ·forkLauncher(SB), NOSPLIT, $0-16
	MOVQ	program+0(FP), BX
	MOVL	$SYS_CLONE, AX
	MOVL	$(CLONE_FS|SIGCHLD), DI
	XORL	SI, SI
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	SYSCALL
	TESTQ	AX, AX
	JZ	child
	MOVQ	AX, result+8(FP)
	RET

child:
	MOVQ	BX, R13
	MOVL	$ENOENT, R12
next:
	ADDQ	$SIZE, BX
	MOVQ	NR(BX), AX
	MOVQ	A1(BX), DI
	MOVQ	A2(BX), SI
	MOVQ	A3(BX), DX
	MOVQ	A4(BX), R10
	MOVQ	A5(BX), R8
	MOVQ	A6(BX), R9
	SYSCALL
	CMPQ	AX, $-4095
	JCS	next		// unsigned below: no error
	NEGQ	AX		// the error number
	MOVBLZX	KIND(BX), CX
	CMPL	CX, $OPTIONAL
	JEQ	next
	CMPL	CX, $GIVE_UP
	JEQ	giveup
	CMPL	CX, $PROBE
	JEQ	probe
	CMPL	CX, $TRY
	JNE	report
	CMPL	AX, $ENOENT
	JEQ	next
	CMPL	AX, $ENOTDIR
	JEQ	next
	CMPL	AX, $EACCES
	JNE	report
	MOVL	AX, R12
	JMP	next
probe:
	CMPL	AX, $ENOENT
	JEQ	skip
	CMPL	AX, $ENOTDIR
	JNE	next
skip:
	ADDQ	$SIZE, BX
	JMP	next
giveup:
	MOVL	R12, AX
report:
	MOVQ	REPORT_AT(R13), SI
	MOVBLZX	(KIND+1)(BX), CX	// the stage
	MOVB	CX, 0(SI)
	MOVL	AX, 1(SI)
	MOVQ	REPORT_FD(R13), DI
	MOVL	$5, DX
	MOVL	$SYS_WRITE, AX
	SYSCALL
	MOVQ	EXIT_CODE(R13), DI
	MOVL	$SYS_EXIT_GROUP, AX
	SYSCALL
	INT	$3

// The linker keeps the order of a file's functions.
TEXT launcherEnd<>(SB), NOSPLIT, $0-0
	RET
