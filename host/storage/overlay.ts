/**
 * The overlay driver: lowers and upper joined by overlayfs. The first write to a lower file copies
 * the whole of it up; `copy-up.ts` tells which.
 */
import { chmodSync, chownSync, closeSync } from 'node:fs';
import { HatchError } from '../base/errors.ts';
import type { LowerOption } from './layer-paths.ts';
import { mountOverlay } from './overlay-mount.ts';
import { probeOverlay } from './overlay-probe.ts';
import type { Scratch, ScratchSpace } from './scratch.ts';
import { rootError } from './storage-driver.ts';
import type { PreparedLayers, RootRequest, StorageDriver, WritableRoot } from './storage-driver.ts';

export class OverlayDriver implements StorageDriver {
  readonly name = 'overlay';
  readonly mapsOwners = false;
  readonly readsLayers = true;
  readonly #scratch: ScratchSpace;
  readonly #lowerOption: LowerOption;
  readonly #roots = new Map<string, OverlayRoot>();

  private constructor(scratch: ScratchSpace, lowerOption: LowerOption) {
    this.#scratch = scratch;
    this.#lowerOption = lowerOption;
  }

  /**
   * Mounts once to learn what this kernel and the scratch space's file system can do.
   * `lowerOption` forces how layers are named to the kernel.
   *
   * @throws HatchError `host.unsupported`, with what is missing.
   */
  static open(scratch: ScratchSpace, lowerOption?: LowerOption): OverlayDriver {
    return new OverlayDriver(scratch, lowerOption ?? probeOverlay(scratch));
  }

  /** Layers are joined where they are. */
  prepare(): Promise<PreparedLayers> {
    return Promise.resolve({ release: () => {} });
  }

  createRoot(request: RootRequest): WritableRoot {
    const { id } = request;
    if (this.#roots.has(id))
      throw new HatchError('internal.bug', `Cannot create root "${id}": there is one already`);
    const scratch = this.#take(request);
    try {
      const root = new OverlayRoot({
        request,
        scratch,
        mountFd: this.#mount(request, scratch.directory),
        forget: () => this.#roots.delete(id),
      });
      this.#roots.set(id, root);
      return root;
    } catch (error) {
      // What is left of it is removed by `removeAll`; the reason is in `error`.
      scratch.release().catch(() => undefined);
      throw rootError(id, error);
    }
  }

  removeAll(): Promise<void> {
    return this.#scratch.removeAll();
  }

  async close(): Promise<void> {
    await Promise.all([...this.#roots.values()].map((root) => root.destroy()));
    await this.#scratch.close();
  }

  #take(request: RootRequest): Scratch {
    try {
      return this.#scratch.take(request.sizeBytes);
    } catch (error) {
      throw rootError(request.id, error);
    }
  }

  #mount(request: RootRequest, directory: string): number {
    const upper = `${directory}/upper`;
    // The merged root takes its owner and mode from the upper directory.
    chmodSync(upper, 0o755);
    chownSync(upper, request.ownerUid, request.ownerGid);
    return mountOverlay({
      directory,
      lowerDirectories: request.lowerDirectories,
      lowerOption: this.#lowerOption,
      persistent: this.#scratch.persistent,
    });
  }
}

class OverlayRoot implements WritableRoot {
  readonly copiesUp = true;
  readonly id: string;
  readonly lowerDirectories: readonly string[];
  readonly mountFd: number;
  readonly #scratch: Scratch;
  readonly #forget: () => void;
  #mountOpen = true;
  #destroyed: Promise<void> | undefined;

  constructor(options: {
    request: RootRequest;
    scratch: Scratch;
    mountFd: number;
    forget: () => void;
  }) {
    this.id = options.request.id;
    this.lowerDirectories = options.request.lowerDirectories;
    this.mountFd = options.mountFd;
    this.#scratch = options.scratch;
    this.#forget = options.forget;
  }

  get upperDirectory(): string {
    // The path may by now lead to what another root writes.
    if (this.#destroyed !== undefined)
      throw new HatchError('internal.bug', `Cannot look into root "${this.id}": it is destroyed`);
    return `${this.#scratch.directory}/upper`;
  }

  closeMount(): void {
    if (!this.#mountOpen) return;
    this.#mountOpen = false;
    closeSync(this.mountFd);
  }

  destroy(): Promise<void> {
    this.#destroyed ??= this.#destroyOnce();
    return this.#destroyed;
  }

  async #destroyOnce(): Promise<void> {
    this.closeMount();
    try {
      await this.#scratch.release();
    } finally {
      this.#forget();
    }
  }
}
