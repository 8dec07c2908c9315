/** The images of a host: where they are, where they come from, where they go. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HatchError, messageOf } from '../base/errors.ts';
import { LayerStore } from './layer-store.ts';
import type { LayerStoreOptions } from './layer-store.ts';
import { ImagePuller } from './pull.ts';
import { RegistryClient } from './registry/registry-client.ts';
import type { RegistrySettings } from './registry/registry-client.ts';
import { parseMirror } from './registry/remote-name.ts';
import { StartReads } from './start-reads.ts';

export interface Images {
  store: LayerStore;
  startReads: StartReads;
  client: RegistryClient;
  puller: ImagePuller;
  close(): Promise<void>;
}

export interface ImagesOptions {
  store: LayerStoreOptions;
  registries: Omit<RegistrySettings, 'certificateAuthorities'> & {
    /** In PEM, in addition to those that Node.js trusts. */
    caFile: string | undefined;
  };
  /** Downloads of layers at the same time. */
  downloadsMax: number;
}

/** Of one layer, compressed. */
const layerBytesMax = 8 * 1024 ** 3;

/** Rejects with `host.config_invalid`, or as the store. */
export async function openImages({
  store: storeOptions,
  registries: { caFile, ...registries },
  downloadsMax,
}: ImagesOptions): Promise<Images> {
  for (const url of Object.values(registries.mirrors ?? {}).flat()) parseMirror(url);
  const certificateAuthorities = caFile === undefined ? [] : [await readAuthorities(caFile)];
  const store = await LayerStore.open(storeOptions);
  const startReads = await StartReads.open({ directory: join(storeOptions.root, 'start-reads') });
  const client = new RegistryClient({ ...registries, certificateAuthorities });
  const puller = new ImagePuller({ store, client, downloadsMax, layerBytesMax });
  const close = async (): Promise<void> => {
    await puller.close();
    await startReads.close();
    client[Symbol.dispose]();
    await store.close();
  };
  return { store, startReads, client, puller, close };
}

async function readAuthorities(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    throw new HatchError(
      'host.config_invalid',
      `Cannot read certificate authorities in "${file}": ${messageOf(cause)}`,
      { cause },
    );
  }
}
