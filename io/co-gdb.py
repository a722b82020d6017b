# SPDX-License-Identifier: MIT OR Apache-2.0
"""
co-gdb: shows the coroutines of a process or a core dump, each with its backtrace.

    (gdb) source io/co-gdb.py
    (gdb) coroutines            all that are alive, with backtraces
    (gdb) coroutines brief      one line each

Nothing in the inferior is changed, so this works on core dumps too: while a backtrace is
taken, an unwinder claims that the caller of the selected thread's innermost frame is the
parked coroutine, whose registers lie on its stack (co_switch_*.S) or in its ucontext.
"""
import re

import gdb
import gdb.unwinder

# Saved registers in the order in which co_switch() leaves them, from the saved stack pointer
# upwards, and the bytes that it takes off the stack when it returns.
LAYOUTS = {
    "i386:x86-64": (("r15", "r14", "r13", "r12", "rbx", "rbp", "rip"), "rsp", 56),
    "aarch64": (("x29", "pc", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27",
                 "x28"), "sp", 160),
}

# The same from a ucontext, by index into gregs (x86-64) or regs (aarch64).
GREGS = {"r12": 4, "r13": 5, "r14": 6, "r15": 7, "rbp": 10, "rbx": 11, "rsp": 15, "rip": 16}


class FrameId:
    def __init__(self, sp, pc):
        self.sp = sp
        self.pc = pc


class CoroutineUnwinder(gdb.unwinder.Unwinder):
    """Grafts a parked coroutine onto the innermost frame while `registers` is set."""

    def __init__(self):
        super().__init__("coroutine")
        self.registers = None

    def __call__(self, pending_frame):
        if self.registers is None:
            return None
        registers, self.registers = self.registers, None  # the innermost frame only
        # A caller's frame must lie above its callee's: gdb stops at what looks like a
        # corrupt stack. Hence an id just below the coroutine, wherever the thread is.
        sp = registers[stack_pointer_of(registers)] - 16
        info = pending_frame.create_unwind_info(FrameId(sp, pending_frame.read_register("pc")))
        for name, value in registers.items():
            info.add_saved_register(name, value)
        return info


def stack_pointer_of(registers):
    return "rsp" if "rsp" in registers else "sp"


UNWINDER = CoroutineUnwinder()
gdb.unwinder.register_unwinder(None, UNWINDER, replace=True)


def word(address, index=0):
    pointer = gdb.lookup_type("unsigned long").pointer()
    return (gdb.Value(int(address)).cast(pointer) + index).dereference()


def saved_registers(context):
    """The registers that a parked coroutine continues with."""
    arch = gdb.selected_frame().architecture().name()
    if arch not in LAYOUTS:
        raise gdb.GdbError(f"no register layout for {arch}")
    ulong = gdb.lookup_type("unsigned long")
    names, sp_name, frame_bytes = LAYOUTS[arch]
    if any(field.name == "uc" for field in context.type.fields()):
        machine = context["uc"]["uc_mcontext"]
        if arch == "aarch64":
            registers = {n: machine["regs"][int(n[1:])] for n in names if n != "pc"}
            registers.update(pc=machine["pc"], sp=machine["sp"])
        else:
            registers = {name: machine["gregs"][i] for name, i in GREGS.items()}
    else:
        sp = int(context["sp"])
        registers = {name: word(sp, i) for i, name in enumerate(names)}
        registers[sp_name] = gdb.Value(sp + frame_bytes)
    return {name: value.cast(ulong) for name, value in registers.items()}


def backtrace_of(registers):
    gdb.invalidate_cached_frames()
    UNWINDER.registers = registers
    try:
        text = gdb.execute("backtrace", to_string=True)
    finally:
        UNWINDER.registers = None
        gdb.invalidate_cached_frames()
    # Frame 0 is the thread's own; the coroutine begins at frame 1.
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith("#1 ")), len(lines))
    return [re.sub(r"^#(\d+)( *)", lambda m: f"#{int(m.group(1)) - 1}{m.group(2)}", line)
            for line in lines[first:]]


def pools():
    symbol = gdb.lookup_static_symbol("all_pools")
    if symbol is None:
        raise gdb.GdbError("no symbol all_pools: is this a program with coroutines, with symbols?")
    pool = symbol.value()
    while pool:
        yield pool.dereference()
        pool = pool["next"]


def show(pool, co, brief):
    state = str(co["state"])
    with_backtrace = state == "CO_PARKED" and not brief
    if state == "CO_RUNNING":
        what = "running: see the thread's own backtrace"
    elif state == "CO_CREATED":
        what = "not started"
    else:
        registers = saved_registers(co["context"])
        sp = int(registers[stack_pointer_of(registers)])
        used = int(co["stack"]) + int(pool["stack_bytes"]) - sp
        what = f"{'ready' if co['link']['ready'] else 'parked'}, {used} bytes of stack"
    print(f"coroutine {co.address}: {co['fn'].format_string(symbols=True)}"
          f" arg {co['arg'].format_string(symbols=False)}, {what}")
    if with_backtrace:
        for line in backtrace_of(registers):
            print("   ", line)
        print()


class Coroutines(gdb.Command):
    """Lists the coroutines that are alive, with backtraces. Usage: coroutines [brief]"""

    def __init__(self):
        super().__init__("coroutines", gdb.COMMAND_STATUS)

    def invoke(self, arg, from_tty):
        if arg not in ("", "brief"):
            raise gdb.GdbError("usage: coroutines [brief]")
        frame = gdb.selected_frame()
        level = frame.level()
        gdb.newest_frame().select()
        nb_alive = 0
        for pool in pools():
            for i in range(int(pool["nb_stacks"])):
                co = pool["cos"][i]
                if str(co["state"]) != "CO_FREE":
                    nb_alive += 1
                    show(pool, co, arg == "brief")
        gdb.execute(f"frame {level}", to_string=True)
        print(f"{nb_alive} coroutines alive")


Coroutines()
