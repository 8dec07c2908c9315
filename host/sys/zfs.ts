/**
 * ZFS: file systems, snapshots and clones, by libzfs_core, the part of ZFS's libraries whose
 * interface stays (<libzfs_core.h>). Each change waits for the pool to write it down.
 */
import { readFileSync, statfsSync } from 'node:fs';
import {
  asyncLibraryFunction,
  hasLibrary,
  libraryFunction,
  syscallError,
  type Argument,
} from './libc.ts';

const ZFS_SUPER_MAGIC = 0x2fc12fc1;
const LZC_DATSET_TYPE_ZFS = 2;
const library = 'libzfs_core.so.3';
const listLibrary = 'libnvpair.so.3';
/** What a channel program may do: more than it needs for a hundred thousand datasets. */
const programInstructionsMax = 100_000_000n;
const programBytesMax = 100n << 20n;

type List = bigint;
/** By the names of zfsprops(7); those that are a choice by their number in <sys/zfs_ioctl.h>. */
export type ZfsProperties = Record<string, bigint | string>;
type ListItems = Record<string, bigint | string | true>;

export interface CloneOptions {
  snapshot: string;
  /** Of the new file system, in the same pool. */
  name: string;
  properties: ZfsProperties;
}

export function isOnZfs(path: string): boolean {
  return statfsSync(path).type === ZFS_SUPER_MAGIC;
}

/** The file system that an open file of ZFS is in, such as `pool/state`. */
export function datasetOf(fd: number): string {
  const mountId = /^mnt_id:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1];
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
  const mount = mounts.find((line) => line.startsWith(`${mountId} `));
  const [type, source] = mount?.split(' - ')[1]?.split(' ') ?? [];
  if (type !== 'zfs' || source === undefined)
    throw new Error(`/proc/self/mountinfo has no zfs of number ${mountId}`);
  // A space is escaped as octal, twice by some versions.
  return source.replaceAll(/(?:\\134|\\)040/g, ' ');
}

export class Zfs {
  readonly #functions: ReturnType<typeof loadFunctions>;

  private constructor() {
    this.#functions = loadFunctions();
    const init = libraryFunction<[]>(library, 'int libzfs_core_init()');
    check('libzfs_core_init', init());
  }

  /** Undefined where its library is not installed. Throws `SyscallError` without the module. */
  static open(): Zfs | undefined {
    return hasLibrary(library) && hasLibrary(listLibrary) ? new Zfs() : undefined;
  }

  /** Closes the library's descriptor with the last that has it open. */
  close(): void {
    libraryFunction<[], void>(library, 'void libzfs_core_fini()')();
  }

  async createFileSystem(name: string, properties: ZfsProperties): Promise<void> {
    const create = (list: List): Promise<number> =>
      this.#functions.create(name, LZC_DATSET_TYPE_ZFS, list, null, 0);
    check('lzc_create', await this.#withList(properties, create), name);
  }

  /** `name` is that of a file system, an @, and one of the snapshot's own. */
  async snapshot(name: string): Promise<void> {
    const errors = Buffer.alloc(8);
    const snapshot = (list: List): Promise<number> => this.#functions.snapshot(list, null, errors);
    const errno = await this.#withList({ [name]: true }, snapshot);
    const list = errors.readBigUInt64LE();
    if (list !== 0n) this.#functions.listFree(list);
    check('lzc_snapshot', errno, name);
  }

  async clone(options: CloneOptions): Promise<void> {
    const { snapshot, name, properties } = options;
    const clone = (list: List): Promise<number> => this.#functions.clone(name, snapshot, list);
    check('lzc_clone', await this.#withList(properties, clone), name);
  }

  /** As `clone`, holding up this thread. */
  cloneNow({ snapshot, name, properties }: CloneOptions): void {
    const list = this.#newList(properties);
    try {
      check('lzc_clone', this.#functions.cloneNow(name, snapshot, list), name);
    } finally {
      this.#functions.listFree(list);
    }
  }

  /** A file system without snapshots, or a snapshot without clones; `EBUSY` while mounted. */
  async destroy(name: string): Promise<void> {
    check('lzc_destroy', await this.#functions.destroy(name), name);
  }

  /**
   * Destroys what is below a file system, and what was cloned from that, all or what it can: as a
   * channel program (zfs-program(8)), whose changes come to the disk together. What is mounted
   * stays, and makes it `EBUSY`.
   */
  async destroyBelow(parent: string, { except }: { except: string }): Promise<void> {
    const pool = parent.slice(0, /\/|$/.exec(parent)?.index);
    const result = Buffer.alloc(8);
    const run = (list: List): Promise<number> =>
      this.#functions.runProgram(
        pool,
        destroyProgram,
        programInstructionsMax,
        programBytesMax,
        list,
        result,
      );
    const error = await this.#withList({ parent, except }, run);
    const answer = result.readBigUInt64LE();
    try {
      check('lzc_channel_program', error, parent);
      check('lzc_channel_program', this.#functions.lookUp(answer, 'return', result), parent);
      check('lzc_destroy', Number(result.readBigInt64LE()), parent);
    } finally {
      if (answer !== 0n) this.#functions.listFree(answer);
    }
  }

  async #withList(items: ListItems, use: (list: List) => Promise<number>): Promise<number> {
    const list = this.#newList(items);
    try {
      return await use(list);
    } finally {
      this.#functions.listFree(list);
    }
  }

  #newList(items: ListItems): List {
    const list = this.#functions.listAllocate();
    for (const [name, value] of Object.entries(items)) {
      if (value === true) this.#functions.listAddFlag(list, name);
      else if (typeof value === 'string') this.#functions.listAddString(list, name, value);
      else this.#functions.listAddNumber(list, name, value);
    }
    return list;
  }
}

/** Resolves whatever is left when it gives up; its number is the errno of the last that stays. */
const destroyProgram = `
  local arguments = ...
  local failure = 0
  local function try(name)
    local errno = zfs.sync.destroy(name)
    if errno ~= 0 then failure = errno end
  end
  local function all(iterator)
    local names = {}
    for name in iterator do names[#names + 1] = name end
    return names
  end
  local function destroy(name)
    for _, snapshot in ipairs(all(zfs.list.snapshots(name))) do
      for _, clone in ipairs(all(zfs.list.clones(snapshot))) do destroy(clone) end
      try(snapshot)
    end
    try(name)
  end
  for _, name in ipairs(all(zfs.list.children(arguments.parent))) do
    local prefix = arguments.parent .. "/" .. arguments.except
    if string.sub(name, 1, #prefix) ~= prefix and zfs.exists(name) then destroy(name) end
  end
  return failure
`;

function loadFunctions() {
  const nv = <A extends Argument[], R = number>(prototype: string): ((...args: A) => R) =>
    libraryFunction<A, R>(listLibrary, prototype);
  const clone = 'int lzc_clone(const char *name, const char *origin, void *properties)';
  return {
    listAllocate: nv<[], List>('void *fnvlist_alloc()'),
    listFree: nv<[List], void>('void fnvlist_free(void *list)'),
    listAddFlag: nv<[List, string], void>('void fnvlist_add_boolean(void *list, const char *name)'),
    listAddNumber: nv<[List, string, bigint], void>(
      'void fnvlist_add_uint64(void *list, const char *name, uint64_t value)',
    ),
    listAddString: nv<[List, string, string], void>(
      'void fnvlist_add_string(void *list, const char *name, const char *value)',
    ),
    lookUp: nv<[List, string, Uint8Array]>(
      'int nvlist_lookup_int64(void *list, const char *name, uint8_t *value)',
    ),
    create: asyncLibraryFunction<[string, number, List, null, number]>(
      library,
      'int lzc_create(const char *name, int type, void *properties, void *key, uint32_t size)',
    ),
    snapshot: asyncLibraryFunction<[List, null, Uint8Array]>(
      library,
      'int lzc_snapshot(void *names, void *properties, uint8_t *errors)',
    ),
    clone: asyncLibraryFunction<[string, string, List]>(library, clone),
    cloneNow: libraryFunction<[string, string, List]>(library, clone),
    destroy: asyncLibraryFunction<[string]>(library, 'int lzc_destroy(const char *name)'),
    runProgram: asyncLibraryFunction<[string, string, bigint, bigint, List, Uint8Array]>(
      library,
      'int lzc_channel_program(const char *pool, const char *program, uint64_t instructions, ' +
        'uint64_t bytes, void *arguments, uint8_t *result)',
    ),
  };
}

/** A function of the library returns its errno. */
function check(name: string, errno: number, detail = ''): void {
  if (errno !== 0) throw syscallError(name, -errno, detail === '' ? '' : `"${detail}"`);
}
