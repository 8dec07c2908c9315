/**
 * libbpf: maps, the kernel's types (BTF), and programs that run where a kernel function begins or
 * ends. Only the host has it, and only where it is installed.
 */
import { closeSync } from 'node:fs';
import { SyscallError } from './errors.ts';
import { allocate, errnoName, errnoOf, hasLibrary, libraryFunction, viewMemory } from './libc.ts';

const library = 'libbpf.so.1';

// <linux/bpf.h>
const BPF_MAP_TYPE_ARRAY = 2;
const BPF_MAP_TYPE_LRU_HASH = 9;
const BPF_PROG_TYPE_TRACING = 26;
const BPF_TRACE_FENTRY = 24;
const BPF_TRACE_FEXIT = 25;
// <linux/btf.h>
const BTF_KIND_STRUCT = 4;
const BTF_KIND_FUNC = 12;

/** struct bpf_prog_load_opts of libbpf 1.0 and later */
const loadOptionsLayout = {
  size: 104,
  attachType: 12,
  btfId: 32,
  btfFd: 40,
} as const;
/** struct btf_type, with an array of struct btf_member behind it (<linux/btf.h>) */
export const typeLayout = { size: 12, info: 4 } as const;
export const memberLayout = { size: 12, at: { name_off: 0, offset: 8 } } as const;
/** struct bpf_btf_info (<linux/bpf.h>) */
export const btfInfoLayout = { size: 32, at: { name: 16, name_len: 24 } } as const;

type Pointer = bigint;

/** Whether libbpf is installed. */
export function hasBpfLibrary(): boolean {
  return hasLibrary(library);
}

/**
 * A map; a descriptor. `array` has zeroed entries numbered from 0, by a key of 4 bytes; `lru` is a
 * hash map that forgets what was not used longest.
 */
export function createMap(options: {
  type: 'array' | 'lru';
  name: string;
  keyBytes: number;
  valueBytes: number;
  entriesMax: number;
}): number {
  const { name, keyBytes, valueBytes, entriesMax } = options;
  const type = options.type === 'array' ? BPF_MAP_TYPE_ARRAY : BPF_MAP_TYPE_LRU_HASH;
  const create = libraryFunction<[number, string, number, number, number, null]>(
    library,
    'int bpf_map_create(int type, const char *name, uint32_t key_size, uint32_t value_size, ' +
      'uint32_t max_entries, const void *opts)',
  );
  const fd = create(type, name, keyBytes, valueBytes, entriesMax, null);
  return checked('bpf_map_create', fd);
}

export type MapLookup = (mapFd: number, key: Uint8Array, value: Uint8Array) => boolean;

/** Copies the value of a key into `value`; false when it has none. */
export function mapLookup(): MapLookup {
  const lookup = libraryFunction<[number, Uint8Array, Uint8Array]>(
    library,
    'int bpf_map_lookup_elem(int fd, const void *key, void *value)',
  );
  return (mapFd, key, value) => lookup(mapFd, key, value) === 0;
}

/** The types of the kernel, or of a module that was loaded. */
export class KernelTypes {
  readonly #types: Pointer;
  /** Of the module; 0 for the kernel itself. */
  readonly #fd: number;

  /** Some 10 MB until it is disposed of. Throws `SyscallError` when the kernel tells no types. */
  static open(): KernelTypes {
    const loadKernel = libraryFunction<[], Pointer | null>(
      library,
      'void *btf__load_vmlinux_btf()',
    );
    return new KernelTypes(loaded('btf__load_vmlinux_btf', loadKernel()), 0);
  }

  /** Those of a module; the kernel's have to outlive them. */
  module(name: string): KernelTypes {
    const loadModule = libraryFunction<[string, Pointer], Pointer | null>(
      library,
      'void *btf__load_module_btf(const char *name, void *base)',
    );
    const types = loaded('btf__load_module_btf', loadModule(name, this.#types), `"${name}"`);
    return new KernelTypes(types, openModuleTypes(name));
  }

  private constructor(types: Pointer, fd: number) {
    this.#types = types;
    this.#fd = fd;
  }

  [Symbol.dispose](): void {
    libraryFunction<[Pointer]>(library, 'void btf__free(void *btf)')(this.#types);
    if (this.#fd !== 0) closeSync(this.#fd);
  }

  /** Where in a structure a member begins, in bytes. */
  offsetOf(structure: string, member: string): number {
    const typeById = libraryFunction<[Pointer, number], Pointer>(
      library,
      'const void *btf__type_by_id(void *btf, uint32_t id)',
    );
    const address = typeById(this.#types, this.#find(structure, BTF_KIND_STRUCT));
    const info = viewMemory(address, typeLayout.size).readUInt32LE(typeLayout.info);
    const { size, at: field } = memberLayout;
    const count = info & 0xffff;
    const members = viewMemory(address, typeLayout.size + count * size).subarray(typeLayout.size);
    for (let at = 0; at < members.length; at += size) {
      if (this.#nameAt(members.readUInt32LE(at + field.name_off)) !== member) continue;
      // In structures with bit fields the upper byte is a width.
      return (members.readUInt32LE(at + field.offset) & 0xff_ffff) / 8;
    }
    throw new SyscallError(
      'btf',
      errnoOf('ENOENT'),
      'ENOENT',
      `no member "${structure}.${member}"`,
    );
  }

  /** Loads a program and has it run at each call of a function; it ends with the descriptor. */
  attach(options: {
    name: string;
    function: string;
    at: 'entry' | 'exit';
    instructions: Buffer;
    license: string;
  }): number {
    const { name, at, instructions, license } = options;
    const loadOptions = Buffer.alloc(loadOptionsLayout.size);
    const { attachType, btfId, btfFd } = loadOptionsLayout;
    loadOptions.writeBigUInt64LE(BigInt(loadOptionsLayout.size), 0);
    loadOptions.writeInt32LE(at === 'entry' ? BPF_TRACE_FENTRY : BPF_TRACE_FEXIT, attachType);
    loadOptions.writeUInt32LE(this.#find(options.function, BTF_KIND_FUNC), btfId);
    loadOptions.writeInt32LE(this.#fd, btfFd);
    const loadProgram = libraryFunction<[number, string, string, Uint8Array, number, Uint8Array]>(
      library,
      'int bpf_prog_load(int type, const char *name, const char *license, const void *insns, ' +
        'size_t count, const void *opts)',
    );
    const count = instructions.length / 8;
    const args = [BPF_PROG_TYPE_TRACING, name, license, instructions, count, loadOptions] as const;
    const program = checked('bpf_prog_load', loadProgram(...args), `"${name}"`);
    try {
      const open = libraryFunction<[null, number]>(
        library,
        'int bpf_raw_tracepoint_open(const char *name, int prog_fd)',
      );
      return checked('bpf_raw_tracepoint_open', open(null, program), `"${options.function}"`);
    } finally {
      closeSync(program);
    }
  }

  #find(name: string, kind: number): number {
    const find = libraryFunction<[Pointer, string, number]>(
      library,
      'int btf__find_by_name_kind(void *btf, const char *name, uint32_t kind)',
    );
    return checked('btf__find_by_name_kind', find(this.#types, name, kind), `"${name}"`);
  }

  #nameAt(offset: number): string {
    const nameByOffset = libraryFunction<[Pointer, number], string>(
      library,
      'const char *btf__name_by_offset(void *btf, uint32_t offset)',
    );
    return nameByOffset(this.#types, offset);
  }
}

/** The type descriptor of a module, found among all that the kernel has. */
function openModuleTypes(moduleName: string): number {
  const nextId = libraryFunction<[number, Uint8Array]>(
    library,
    'int bpf_btf_get_next_id(uint32_t start, void *next)',
  );
  const next = Buffer.alloc(4);
  for (let id = 0; nextId(id, next) === 0;) {
    id = next.readUInt32LE(0);
    const fd = openTypes(id);
    if (fd === undefined) continue;
    if (nameOfTypes(fd) === moduleName) return fd;
    closeSync(fd);
  }
  throw new SyscallError('bpf_btf_get_next_id', errnoOf('ENOENT'), 'ENOENT', `"${moduleName}"`);
}

/** Undefined when they have gone meanwhile. */
function openTypes(id: number): number | undefined {
  const open = libraryFunction<[number]>(library, 'int bpf_btf_get_fd_by_id(uint32_t id)');
  const fd = open(id);
  return fd < 0 ? undefined : fd;
}

const moduleNameBytesMax = 64;
const nameMemory = allocate(moduleNameBytesMax);

function nameOfTypes(fd: number): string {
  const { size, at } = btfInfoLayout;
  const info = Buffer.alloc(size);
  info.writeBigUInt64LE(nameMemory.address, at.name);
  info.writeUInt32LE(moduleNameBytesMax, at.name_len);
  const infoSize = Buffer.alloc(4);
  infoSize.writeUInt32LE(size, 0);
  const read = libraryFunction<[number, Uint8Array, Uint8Array]>(
    library,
    'int bpf_obj_get_info_by_fd(int fd, void *info, void *info_size)',
  );
  checked('bpf_obj_get_info_by_fd', read(fd, info, infoSize));
  const text = nameMemory.bytes.toString('latin1');
  return text.slice(0, text.indexOf('\0'));
}

function loaded(name: string, types: Pointer | null, detail = ''): Pointer {
  if (types === null) throw new SyscallError(name, errnoOf('ENOENT'), 'ENOENT', detail);
  return types;
}

/** libbpf answers with a negative errno. */
function checked(name: string, result: number, detail = ''): number {
  if (result < 0) throw new SyscallError(name, -result, errnoName(-result), detail);
  return result;
}
