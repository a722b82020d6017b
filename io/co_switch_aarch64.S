/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * co_switch for aarch64 (AAPCS64).
 *
 * A switch is an ordinary call, so only what a callee must keep is saved: x19
 * to x28, the frame pointer x29, the return address x30, the low halves of v8
 * to v15 (d8-d15) and the stack pointer. FPCR belongs to the thread: nothing here
 * changes it.
 *
 * At the saved stack pointer of a parked coroutine stand x29, x30, x19 to x28 and
 * d8 to d15, 160 bytes in all. co.c builds the same picture for a new stack, and
 * co-gdb.py reads it.
 */
#if defined(__aarch64__) && defined(__LP64__) && !defined(CO_UCONTEXT)

	.text

/* void co_switch(void **ret_sp, void *sp): parks the caller, continues what is parked at sp. */
	.globl	co_switch
	.hidden	co_switch
	.type	co_switch, %function
	.balign	16
co_switch:
	.cfi_startproc
	hint	#34			/* bti c */
	stp	x29, x30, [sp, #-160]!
	.cfi_adjust_cfa_offset 160
	.cfi_rel_offset x29, 0
	.cfi_rel_offset x30, 8
	stp	x19, x20, [sp, #16]
	.cfi_rel_offset x19, 16
	.cfi_rel_offset x20, 24
	stp	x21, x22, [sp, #32]
	.cfi_rel_offset x21, 32
	.cfi_rel_offset x22, 40
	stp	x23, x24, [sp, #48]
	.cfi_rel_offset x23, 48
	.cfi_rel_offset x24, 56
	stp	x25, x26, [sp, #64]
	.cfi_rel_offset x25, 64
	.cfi_rel_offset x26, 72
	stp	x27, x28, [sp, #80]
	.cfi_rel_offset x27, 80
	.cfi_rel_offset x28, 88
	stp	d8, d9, [sp, #96]
	stp	d10, d11, [sp, #112]
	stp	d12, d13, [sp, #128]
	stp	d14, d15, [sp, #144]
	/* Both stacks look alike here, so the unwind rules stay true across the change. */
	mov	x2, sp
	str	x2, [x0]
	mov	sp, x1
	ldp	d14, d15, [sp, #144]
	ldp	d12, d13, [sp, #128]
	ldp	d10, d11, [sp, #112]
	ldp	d8, d9, [sp, #96]
	ldp	x27, x28, [sp, #80]
	ldp	x25, x26, [sp, #64]
	ldp	x23, x24, [sp, #48]
	ldp	x21, x22, [sp, #32]
	ldp	x19, x20, [sp, #16]
	ldp	x29, x30, [sp], #160
	.cfi_adjust_cfa_offset -160
	.cfi_restore x19
	.cfi_restore x20
	.cfi_restore x21
	.cfi_restore x22
	.cfi_restore x23
	.cfi_restore x24
	.cfi_restore x25
	.cfi_restore x26
	.cfi_restore x27
	.cfi_restore x28
	.cfi_restore x29
	.cfi_restore x30
	ret
	.cfi_endproc
	.size	co_switch, . - co_switch

/* First return address of a new stack: calls co_main(x19), which does not return. */
	.globl	co_switch_start
	.hidden	co_switch_start
	.type	co_switch_start, %function
	.balign	16
co_switch_start:
	.cfi_startproc
	.cfi_undefined x30		/* the outermost frame: debuggers stop here */
	mov	x0, x19
	bl	co_main
	brk	#1
	.cfi_endproc
	.size	co_switch_start, . - co_switch_start

#if defined(__ARM_FEATURE_BTI_DEFAULT)
	.section .note.gnu.property, "a"
	.balign	8
	.long	4, 16, 5		/* name and descriptor sizes, NT_GNU_PROPERTY_TYPE_0 */
	.asciz	"GNU"
	.long	0xc0000000, 4, 1, 0	/* AARCH64_FEATURE_1_AND: BTI */
#endif
#endif

	.section .note.GNU-stack, "", %progbits
