/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * co_switch for x86-64 (System V ABI).
 *
 * A switch is an ordinary call, so the compiler has saved what the ABI lets a
 * callee destroy; what is left are rbx, rbp, r12-r15 and the stack pointer. The
 * ABI counts the control words of SSE and x87 as callee-saved as well. They are
 * not switched: nothing here changes rounding or exception masks, so all
 * coroutines of a thread agree on them, and saving them would cost more than the
 * rest of the switch.
 *
 * Below the saved stack pointer of a parked coroutine there is nothing; above
 * it stand r15, r14, r13, r12, rbx, rbp and the return address. co.c builds the
 * same picture for a new stack, and co-gdb.py reads it.
 *
 * Every entry is an endbr64 for indirect branch tracking. Shadow stacks would
 * need a second stack per coroutine, so the object is not marked for them and
 * the loader leaves them off.
 */
#if defined(__x86_64__) && defined(__LP64__) && !defined(CO_UCONTEXT)

	.text

/* void co_switch(void **ret_sp, void *sp): parks the caller, continues what is parked at sp. */
	.globl	co_switch
	.hidden	co_switch
	.type	co_switch, @function
	.balign	16
co_switch:
	.cfi_startproc
	endbr64
	pushq	%rbp
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset rbp, 0
	pushq	%rbx
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset rbx, 0
	pushq	%r12
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset r12, 0
	pushq	%r13
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset r13, 0
	pushq	%r14
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset r14, 0
	pushq	%r15
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset r15, 0
	/* Both stacks look alike here, so the unwind rules stay true across the change. */
	movq	%rsp, (%rdi)
	movq	%rsi, %rsp
	popq	%r15
	.cfi_adjust_cfa_offset -8
	.cfi_restore r15
	popq	%r14
	.cfi_adjust_cfa_offset -8
	.cfi_restore r14
	popq	%r13
	.cfi_adjust_cfa_offset -8
	.cfi_restore r13
	popq	%r12
	.cfi_adjust_cfa_offset -8
	.cfi_restore r12
	popq	%rbx
	.cfi_adjust_cfa_offset -8
	.cfi_restore rbx
	popq	%rbp
	.cfi_adjust_cfa_offset -8
	.cfi_restore rbp
	ret
	.cfi_endproc
	.size	co_switch, . - co_switch

/* First return address of a new stack: calls co_main(r12), which does not return. */
	.globl	co_switch_start
	.hidden	co_switch_start
	.type	co_switch_start, @function
	.balign	16
co_switch_start:
	.cfi_startproc
	.cfi_undefined rip	/* the outermost frame: debuggers stop here */
	endbr64
	movq	%r12, %rdi
	call	co_main
	ud2
	.cfi_endproc
	.size	co_switch_start, . - co_switch_start

#if defined(__CET__) && (__CET__ & 1)
	.section .note.gnu.property, "a", @note
	.balign	8
	.long	4, 16, 5		/* name and descriptor sizes, NT_GNU_PROPERTY_TYPE_0 */
	.asciz	"GNU"
	.long	0xc0000002, 4, 1, 0	/* X86_FEATURE_1_AND: IBT alone */
#endif
#endif

	.section .note.GNU-stack, "", @progbits
