/** OCI layouts for tests, written by the host's own code. */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Digest } from '../../host/image/digest.ts';
import { writeLayer } from '../../host/image/layer-tar.ts';
import type { Compression, LayerEntry } from '../../host/image/layer-tar.ts';
import { hostPlatform } from '../../host/image/manifest.ts';
import type { Platform } from '../../host/image/manifest.ts';
import { writeImage } from '../../host/image/oci-layout.ts';

export interface TestLayout {
  directory: string;
  reference: string;
  digest: Digest;
}

/** One image; by default of two layers with a file each, `below` and `above`. */
export async function makeLayout(options: {
  directory: string;
  compression: Compression;
  layers?: LayerEntry[][];
  platform?: Platform;
  /** As `NAME=value`. */
  env?: string[];
}): Promise<TestLayout> {
  const { directory, compression, platform = hostPlatform(), env } = options;
  const contents = options.layers ?? [[file('below', 'below')], [file('above', 'above')]];
  const scratch = `${directory}-blobs`;
  await mkdir(scratch, { recursive: true });
  const layers = [];
  for (const [index, entries] of contents.entries()) {
    const destination = join(scratch, String(index));
    const blob = await writeLayer({ entries, destination, compression });
    layers.push({ ...blob, file: destination });
  }
  const reference = 'test:1';
  const digest = await writeImage({
    directory,
    reference,
    platform,
    config: {
      ...platform,
      config: env === undefined ? {} : { Env: env },
      rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
    },
    layers: layers.map((layer) => ({
      file: layer.file,
      descriptor: {
        mediaType: layer.mediaType,
        digest: layer.digest,
        size: layer.sizeBytes,
      },
    })),
  });
  await rm(scratch, { recursive: true });
  return { directory, reference, digest };
}

export function file(path: string, content: string | Uint8Array): LayerEntry {
  return { type: 'file', path, mode: 0o644, content };
}
