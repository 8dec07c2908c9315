/** Where the writable half of a root lives: a fresh directory for each root, never used twice. */
export interface ScratchSpace {
  /** Whether its bytes outlive a crash of the machine: then unmounting must not wait for them. */
  readonly persistent: boolean;
  /** Holds empty directories `upper` and `work`. Synchronous: it is on the path of a start. */
  take(sizeBytes: number | undefined): Scratch;
  removeAll(): Promise<void>;
  close(): Promise<void>;
}

export interface Scratch {
  /** Usable as a path by this process, until `release`. */
  readonly directory: string;
  /** Call it once. */
  release(): Promise<void>;
}
