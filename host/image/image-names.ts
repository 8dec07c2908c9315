/** Which images a store has, by name: in memory, and on the disk as soon as that may be. */
import type { LayerFiles } from './layer-files.ts';
import type { ImageRecord } from './records.ts';

export class ImageNames {
  readonly #files: Pick<LayerFiles, 'writeImage' | 'removeImage'>;
  readonly #records = new Map<string, ImageRecord>();
  /** The last change of each name that is under way; it never rejects. */
  readonly #changes = new Map<string, Promise<void>>();

  constructor(files: Pick<LayerFiles, 'writeImage' | 'removeImage'>) {
    this.#files = files;
  }

  /** Of records that are on the disk. */
  restore(records: readonly ImageRecord[]): void {
    for (const record of records) this.#records.set(record.reference, record);
  }

  get(reference: string): ImageRecord | undefined {
    return this.#records.get(reference);
  }

  all(): ImageRecord[] {
    return [...this.#records.values()];
  }

  /** Known once it is on the disk, in the place of what had the name. */
  async add(record: ImageRecord): Promise<void> {
    await this.#inTurn(record.reference, async () => {
      await this.#files.writeImage(record);
      this.#records.set(record.reference, record);
    });
  }

  /** At once; resolves when it is off the disk too. */
  async forget(reference: string): Promise<void> {
    this.#records.delete(reference);
    await this.#inTurn(reference, async () => {
      // The name may stand for another image by now, which was imported meanwhile.
      if (!this.#records.has(reference)) await this.#files.removeImage(reference);
    });
  }

  /** One change of a name at a time, so that the disk ends up as memory does. */
  async #inTurn(reference: string, change: () => Promise<void>): Promise<void> {
    const before = this.#changes.get(reference) ?? Promise.resolve();
    const done = before.then(change);
    const settled = done
      .catch(() => undefined)
      .finally(() => {
        if (this.#changes.get(reference) === settled) this.#changes.delete(reference);
      });
    this.#changes.set(reference, settled);
    await done;
  }
}
