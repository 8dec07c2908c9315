/**
 * How long the kernel takes to copy a file up, and for which system call: two eBPF programs, where
 * `ovl_copy_up_one` begins and where it ends. They note what they see in a map, by control group
 * and inode; whoever finds a copy-up (`copy-up.ts`) looks it up. So nothing wakes this process, a
 * call pays nothing for it, and when nobody looks the map forgets the oldest.
 *
 * It needs libbpf, the kernel's types (BTF), and groups of cgroup v2, by which the kernel knows
 * whose a copy is.
 */
import { closeSync, existsSync } from 'node:fs';
import { messageOf } from '../base/errors.ts';
import { createMap, hasBpfLibrary, KernelTypes, mapLookup, type MapLookup } from '../sys/bpf.ts';
import {
  add,
  and,
  assemble,
  call,
  exit,
  jumpIfEqual,
  jumpIfNotEqual,
  jumpIfNotEqual32,
  label,
  load,
  loadMap,
  move,
  store,
  storeConstant,
  subtract,
  type Instruction,
} from '../sys/bpf-instructions.ts';

export interface CopyUpTime {
  durationNs: number;
  /** Such as `openat`; of which kind it is tells why the file was copied. */
  systemCall: string;
}

export interface CopyUpProbe {
  /** Why it finds nothing; undefined where it works. */
  readonly unavailable: string | undefined;
  /** Of the copy that became this inode of an upper directory, made by a process of that group. */
  find(copy: { cgroupId: bigint | undefined; inode: bigint }): CopyUpTime | undefined;
  close(): void;
}

/** static int ovl_copy_up_one(struct dentry *parent, struct dentry *dentry, int flags) */
const probedFunction = 'ovl_copy_up_one';
/** Offsets in the arguments of a program: each takes 8 bytes, the result follows them. */
const argument = { dentry: 8, result: 24 } as const;
/** The kernel gives what reads its memory to programs of a licence like its own only. */
const license = 'Dual MIT/GPL';
const copiesMax = 16_384;
/** Slots for copies under way, by the lower bits of a thread's id: a power of two. */
const copyingMax = 4096;
/** u64 thread, start in ns */
const startLayout = { thread: 0, startNs: 8 } as const;
/** u64 cgroup, inode -> u64 duration in ns, number of the system call */
const copyLayout = { inode: 8, systemCall: 8 } as const;

const startedMap = { type: 'array', name: 'hatch_started', keyBytes: 4, valueBytes: 16 } as const;
const copiesMap = { type: 'lru', name: 'hatch_copies', keyBytes: 16, valueBytes: 16 } as const;

/** Attaches to the kernel until `close`, where that allows it. */
export function openCopyUpProbe(options: {
  layout: CgroupLayout;
  callNames: ReadonlyMap<number, string>;
}): CopyUpProbe {
  const obstacle = obstacleOn(options.layout);
  if (obstacle !== undefined) return missingProbe(obstacle);
  try {
    return attach(options.callNames);
  } catch (error) {
    // The kernel may be locked down, or have overlayfs in another form.
    return missingProbe(messageOf(error));
  }
}

type CgroupLayout = 'v1' | 'v2' | 'hybrid';

function obstacleOn(layout: CgroupLayout): string | undefined {
  if (layout !== 'v2') return 'groups are of cgroup v1, which eBPF does not see';
  if (!existsSync('/sys/kernel/btf/vmlinux')) return 'the kernel has no BTF';
  return hasBpfLibrary() ? undefined : 'libbpf is not installed (Debian package libbpf1)';
}

function missingProbe(unavailable: string): CopyUpProbe {
  return { unavailable, find: () => undefined, close: () => undefined };
}

function attach(callNames: ReadonlyMap<number, string>): CopyUpProbe {
  using kernel = KernelTypes.open();
  // Built in, its types are among the kernel's.
  using module = existsSync('/sys/kernel/btf/overlay') ? kernel.module('overlay') : undefined;
  const overlay = module ?? kernel;
  using opened = new DisposableStack();
  const own = (fd: number): number => opened.adopt(fd, closeSync);
  const maps = {
    started: own(createMap({ ...startedMap, entriesMax: copyingMax })),
    copies: own(createMap({ ...copiesMap, entriesMax: copiesMax })),
  };
  const programs = { function: probedFunction, license };
  own(
    overlay.attach({
      ...programs,
      name: 'hatch_copy_start',
      at: 'entry',
      instructions: assemble(startProgram(maps)),
    }),
  );
  own(
    overlay.attach({
      ...programs,
      name: 'hatch_copy_end',
      at: 'exit',
      instructions: assemble(endProgram(maps, offsetsIn(kernel, overlay))),
    }),
  );
  return new AttachedProbe(maps.copies, callNames, opened.move());
}

class AttachedProbe implements CopyUpProbe {
  readonly unavailable = undefined;
  readonly #copies: number;
  readonly #callNames: ReadonlyMap<number, string>;
  readonly #opened: DisposableStack;
  readonly #lookup: MapLookup = mapLookup();
  readonly #key = Buffer.alloc(copiesMap.keyBytes);
  readonly #value = Buffer.alloc(copiesMap.valueBytes);

  constructor(copies: number, callNames: ReadonlyMap<number, string>, opened: DisposableStack) {
    this.#copies = copies;
    this.#callNames = callNames;
    this.#opened = opened;
  }

  find({ cgroupId, inode }: Parameters<CopyUpProbe['find']>[0]): CopyUpTime | undefined {
    if (cgroupId === undefined || this.#opened.disposed) return undefined;
    this.#key.writeBigUInt64LE(cgroupId, 0);
    this.#key.writeBigUInt64LE(inode, copyLayout.inode);
    if (!this.#lookup(this.#copies, this.#key, this.#value)) return undefined;
    const number = Number(this.#value.readBigInt64LE(copyLayout.systemCall));
    return {
      durationNs: Number(this.#value.readBigUInt64LE(0)),
      systemCall: this.#callNames.get(number) ?? `call ${number}`,
    };
  }

  close(): void {
    this.#opened.dispose();
  }
}

interface Maps {
  started: number;
  copies: number;
}

interface Offsets {
  dentryInode: number;
  inodeNumber: number;
  /** From an overlay inode to the pointer to its upper dentry. */
  upperDentry: number;
  callNumber: number;
  callNumberBytes: 4 | 8;
}

function offsetsIn(kernel: KernelTypes, overlay: KernelTypes): Offsets {
  const registers = process.arch === 'arm64' ? 'syscallno' : 'orig_ax';
  return {
    dentryInode: kernel.offsetOf('dentry', 'd_inode'),
    inodeNumber: kernel.offsetOf('inode', 'i_ino'),
    upperDentry:
      overlay.offsetOf('ovl_inode', '__upperdentry') - overlay.offsetOf('ovl_inode', 'vfs_inode'),
    callNumber: kernel.offsetOf('pt_regs', registers),
    callNumberBytes: process.arch === 'arm64' ? 4 : 8,
  };
}

/** On the stack: which slot of `started` is this thread's. */
const slot = -8;

function startProgram({ started }: Maps): Instruction[] {
  return [
    ...findSlot(started),
    move('r7', 'r0'),
    store('r7', startLayout.thread, 'r9'),
    call('ktime_get_ns'),
    store('r7', startLayout.startNs, 'r0'),
    label('end'),
    move('r0', 0),
    exit(),
  ];
}

/** r0 points to this thread's slot; r9 is the thread. */
function findSlot(started: number): Instruction[] {
  return [
    call('get_current_pid_tgid'),
    move('r9', 'r0'),
    and('r0', copyingMax - 1),
    store('fp', slot, 'r0'),
    ...loadMap('r1', started),
    ...stackAddress('r2', slot),
    call('map_lookup_elem'),
    jumpIfEqual('r0', 0, 'end'),
  ];
}

/** On the stack: a key and a value of the map of copies, and room for a pointer. */
const copyKey = -24;
const copyInode = copyKey + copyLayout.inode;
const copyValue = -40;
const copyCall = copyValue + copyLayout.systemCall;
const pointer = -48;

function endProgram({ started, copies }: Maps, offsets: Offsets): Instruction[] {
  const { dentryInode, inodeNumber, upperDentry, callNumber, callNumberBytes } = offsets;
  return [
    move('r6', 'r1'),
    load('r1', 'r6', argument.result),
    jumpIfNotEqual32('r1', 0, 'end'),
    call('ktime_get_ns'),
    move('r8', 'r0'),
    ...findSlot(started),
    // Another thread may have taken the slot meanwhile: then this copy has no time.
    load('r1', 'r0', startLayout.thread),
    jumpIfNotEqual('r1', 'r9', 'end'),
    load('r7', 'r0', startLayout.startNs),
    subtract('r8', 'r7'),
    store('fp', copyValue, 'r8'),
    // Which system call the thread is in.
    call('get_current_task_btf'),
    move('r1', 'r0'),
    call('task_pt_regs'),
    load('r1', 'r0', callNumber, callNumberBytes),
    store('fp', copyCall, 'r1'),
    // The overlay's inode holds the dentry of its new upper file, and that has the inode we want.
    load('r1', 'r6', argument.dentry),
    load('r3', 'r1', dentryInode),
    ...readPointer(upperDentry),
    load('r3', 'fp', pointer),
    ...readPointer(dentryInode),
    load('r3', 'fp', pointer),
    ...readPointer(inodeNumber),
    load('r1', 'fp', pointer),
    store('fp', copyInode, 'r1'),
    call('get_current_cgroup_id'),
    store('fp', copyKey, 'r0'),
    ...loadMap('r1', copies),
    ...stackAddress('r2', copyKey),
    ...stackAddress('r3', copyValue),
    move('r4', 0),
    call('map_update_elem'),
    label('end'),
    move('r0', 0),
    exit(),
  ];
}

/** Reads the 8 bytes at `[r3 + offset]` of the kernel's memory; zero when there are none. */
function readPointer(offset: number): Instruction[] {
  return [
    storeConstant('fp', pointer, 0),
    add('r3', offset),
    ...stackAddress('r1', pointer),
    move('r2', 8),
    call('probe_read_kernel'),
  ];
}

function stackAddress(to: 'r1' | 'r2' | 'r3', offset: number): Instruction[] {
  return [move(to, 'fp'), add(to, offset)];
}
