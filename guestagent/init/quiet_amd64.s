#include "textflag.h"

// handler is the handler of sigQuiet; see quiet_unsafe.go. In: DI signal, SI siginfo, DX ucontext.
// The saved RAX is at 144 in the ucontext (uc_mcontext.rax), the saved signal mask at 296 (uc_sigmask).
TEXT handler<>(SB), NOSPLIT|NOFRAME, $0
	LOCK
	INCL	·quieted(SB)
	CMPQ	144(DX), $-4	// EINTR: the thread was in a sleep with a timeout
	JNE	stay
	MOVL	$60, AX		// exit: this thread only
	XORL	DI, DI
	SYSCALL
stay:
	BTSQ	$16, 296(DX)	// SIGCHLD (17) stays blocked after sigreturn
	RET			// to the restorer

TEXT restorer<>(SB), NOSPLIT|NOFRAME, $0
	MOVL	$15, AX		// rt_sigreturn
	SYSCALL
	INT	$3

// func handlerAddresses() (handler, restorer uintptr)
TEXT ·handlerAddresses(SB), NOSPLIT, $0-16
	LEAQ	handler<>(SB), AX
	MOVQ	AX, handler+0(FP)
	LEAQ	restorer<>(SB), AX
	MOVQ	AX, restorer+8(FP)
	RET
