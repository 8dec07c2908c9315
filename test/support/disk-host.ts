/** A host whose state directory is on a file system of its own. */
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import type { HostConfig } from '../../host/config.ts';
import { DiskImage, type DiskType } from './disk-image.ts';
import { startHost, type TestHost } from './host.ts';

export class DiskHost implements AsyncDisposable {
  readonly disk: DiskImage;
  /** Ends before the disk; who stops it and starts another puts that one here. */
  host: TestHost;

  static async start(
    type: DiskType,
    options: { sizeMiB?: number; config?: Partial<HostConfig> } = {},
  ): Promise<DiskHost> {
    const disk = new DiskImage(type, options);
    try {
      const stateDirectory = newStateDirectory(disk);
      return new DiskHost(disk, await startHost({ config: { ...options.config, stateDirectory } }));
    } catch (error) {
      disk[Symbol.dispose]();
      throw error;
    }
  }

  private constructor(disk: DiskImage, host: TestHost) {
    this.disk = disk;
    this.host = host;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.host.stop();
    } finally {
      this.disk[Symbol.dispose]();
    }
  }
}

/** For another host on the same disk. */
export function newStateDirectory(disk: DiskImage): string {
  return mkdtempSync(join(disk.mountPoint, 'hatch-test-'));
}
