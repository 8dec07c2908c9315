/**
 * The only file that imports koffi. What leaves it is typed, checked, and throws `SyscallError`:
 * no other file sees a raw return value, an errno or an unmanaged pointer.
 */
import koffi from 'koffi';
import { SyscallError } from './errors.ts';

export type Argument = number | bigint | string | Uint8Array | null;

type Library = ReturnType<typeof koffi.load>;

const libc = koffi.load('libc.so.6');
/** Second names of one number; Node.js uses the other ones. */
const aliases = new Set(['EWOULDBLOCK', 'EDEADLOCK', 'ENOTSUP']);
const errnoNames = new Map(
  Object.entries(koffi.os.errno)
    .filter(([name]) => !aliases.has(name))
    .map(([name, value]) => [value, name]),
);
const libraries = new Map<string, Library>();

/**
 * Declares a function whose result -1 means "see errno", and makes it throw.
 * `describe` turns the arguments into the tail of the error message.
 */
export function syscall<A extends Argument[]>(
  prototype: string,
  describe: (...args: A) => string = () => '',
): (...args: A) => number {
  const { native, name, arity } = bind(libc, prototype);
  const check = argumentCheck({ name, arity, prototype });
  return (...args) => {
    check(args);
    const result = Number(native(...args));
    // errno must be read before anything else runs: the next fs call overwrites it.
    if (result === -1) throw failure(name, koffi.errno(), describe(...args));
    return result;
  };
}

/** As `syscall`, but a failure comes back as a negative errno: for calls that may fail normally. */
export function trySyscall<A extends Argument[]>(prototype: string): (...args: A) => number {
  const { native, name, arity } = bind(libc, prototype);
  const check = argumentCheck({ name, arity, prototype });
  return (...args) => {
    check(args);
    const result = Number(native(...args));
    return result === -1 ? -koffi.errno() : result;
  };
}

/**
 * As `syscall`, on a thread of the pool: for calls that wait for a disk. Mounts are those of the
 * process, whatever namespace the main thread is in; so name files by descriptors.
 */
export function asyncSyscall<A extends Argument[]>(
  prototype: string,
  describe: (...args: A) => string = () => '',
): (...args: A) => Promise<number> {
  const { native, name, arity } = bind(libc, prototype);
  const check = argumentCheck({ name, arity, prototype });
  return (...args) => {
    check(args);
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    native.async(...args, (error: Error | null, result: number) => {
      // koffi brings the thread's errno along. That `args` are named here keeps buffers alive.
      if (error === null && Number(result) === -1)
        reject(failure(name, koffi.errno(), describe(...args)));
      else if (error === null) resolve(Number(result));
      else reject(error);
    });
    return promise;
  };
}

export interface NumberedCall {
  name: string;
  number: number;
  /** As in a prototype. */
  parameters: string;
}

/** Declares a call by number, for those that libc does not wrap: the error names the call. */
export function numberedSyscall<A extends Argument[]>(
  call: NumberedCall,
  describe: (...args: A) => string = () => '',
): (...args: A) => number {
  return byNumber(call, [], describe);
}

/**
 * The sixth argument of a call that sets a container up. No such call has one, and the kernel does
 * not look: but a seccomp filter does, and so tells our calls from a function's.
 */
export const setupMark = 0x6861_7463_6865_7279n;

/** As `numberedSyscall`, for calls that only the setup of a container may make. */
export function setupSyscall<A extends Argument[]>(
  call: NumberedCall,
  describe: (...args: A) => string = () => '',
): (...args: A) => number {
  const unused = Array.from({ length: 5 - call.parameters.split(',').length }, () => 0);
  const rest = [...unused.map((_zero, index) => `long unused${index}`), 'uint64_t mark'];
  const parameters = [call.parameters, ...rest].join(', ');
  return byNumber({ ...call, parameters }, [...unused, setupMark], describe);
}

function byNumber<A extends Argument[]>(
  { name, number, parameters }: NumberedCall,
  last: readonly Argument[],
  describe: (...args: A) => string,
): (...args: A) => number {
  const prototype = `long syscall(long number, ${parameters})`;
  const { native, arity } = bind(libc, prototype);
  const check = argumentCheck({ name, arity: arity - 1 - last.length, prototype });
  return (...args) => {
    check(args);
    const result = Number(native(number, ...args, ...last));
    if (result === -1) throw failure(name, koffi.errno(), describe(...args));
    return result;
  };
}

/**
 * Declares a function with a convention of its own for failures, from a library by file name or,
 * with `null`, from the running executable. The result is what the library returned.
 */
export function libraryFunction<A extends Argument[], R = number>(
  library: string | null,
  prototype: string,
): (...args: A) => R {
  const { native, name, arity } = bind(loadLibrary(library), prototype);
  const check = argumentCheck({ name, arity, prototype });
  return (...args) => {
    check(args);
    return native(...args) as R;
  };
}

/**
 * As `libraryFunction`, on a thread of the pool: for calls that wait for a disk. Buffers must be
 * held until it resolves.
 */
export function asyncLibraryFunction<A extends Argument[], R = number>(
  library: string,
  prototype: string,
): (...args: A) => Promise<R> {
  const { native, name, arity } = bind(loadLibrary(library), prototype);
  const check = argumentCheck({ name, arity, prototype });
  return (...args) => {
    check(args);
    const { promise, resolve, reject } = Promise.withResolvers<R>();
    native.async(...args, (error: Error | null, result: R) => {
      if (error === null) resolve(result);
      else reject(error);
    });
    return promise;
  };
}

/** Whether a shared library is there to be loaded. */
export function hasLibrary(library: string): boolean {
  try {
    libraries.set(library, koffi.load(library));
    return true;
  } catch {
    return false;
  }
}

/** Memory outside the JavaScript heap, whose address the kernel or a library may keep. */
export interface NativeMemory {
  readonly address: bigint;
  readonly bytes: Buffer;
}

/** Allocates zeroed native memory. It is never freed: allocate once, at module level. */
export function allocate(sizeBytes: number): NativeMemory {
  const address = koffi.alloc('uint8_t', sizeBytes) as unknown as bigint;
  const bytes = Buffer.from(koffi.view(address, sizeBytes));
  bytes.fill(0);
  return { address: BigInt(address), bytes };
}

/** Memory that a library keeps, at an address that it gave: to be read at once. */
export function viewMemory(address: bigint, sizeBytes: number): Buffer {
  return Buffer.from(koffi.view(address, sizeBytes));
}

export interface Watch {
  close(): void;
}

/**
 * Calls back from the event loop whenever the descriptor can be read or has hung up. The descriptor
 * must stay open until `close`.
 */
export function watchReadable(fd: number, onReadable: () => void): Watch {
  const handle = koffi.node.poll(fd, { readable: true, disconnect: true }, onReadable);
  return { close: () => handle.close() };
}

/** The error for a negative errno that `trySyscall` returned. */
export function syscallError(name: string, negativeErrno: number, detail = ''): SyscallError {
  return failure(name, -negativeErrno, detail);
}

export function errnoOf(name: string): number {
  const value = koffi.os.errno[name as keyof typeof koffi.os.errno];
  if (value === undefined) throw new TypeError(`There is no errno ${name}`);
  return value;
}

export function errnoName(errno: number): string {
  return errnoNames.get(errno) ?? `E${errno}`;
}

function loadLibrary(library: string | null): Library {
  const key = library ?? '';
  const loaded = libraries.get(key) ?? koffi.load(library);
  libraries.set(key, loaded);
  return loaded;
}

function bind(library: Library, prototype: string) {
  const native = library.func(prototype);
  return { native, name: native.info.name, arity: native.info.arguments.length };
}

/**
 * For each call of a function. Most calls of a start are the process's first and only ones, which
 * V8 interprets: what the prototype rules out is not looked for.
 */
function argumentCheck(called: { name: string; arity: number; prototype: string }) {
  const { name, arity, prototype } = called;
  const takesText = prototype.includes('*');
  return (args: Argument[]): void => {
    if (args.length !== arity)
      throw new TypeError(`${name} takes ${arity} arguments: got ${args.length}`);
    if (!takesText) return;
    for (const arg of args) {
      // C strings end at NUL: what follows would be cut from a path that was checked whole.
      if (typeof arg === 'string' && arg.includes('\0'))
        throw new TypeError(`${name}: a string argument holds a NUL character`);
    }
  };
}

function failure(name: string, errno: number, detail: string): SyscallError {
  return new SyscallError(name, errno, errnoName(errno), detail);
}
