/** Layer stores that hold the base image from the start: unpacking it is most of a first start. */
import { execFile } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { mkdir, rename } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { LayerStore } from '../../host/image/layer-store.ts';

const run = promisify(execFile);
const baseImage = resolve(import.meta.dirname, '../../.cache/images/node24');

/**
 * Gives a new state directory the layers that the test run unpacked once, in the directory that it
 * names; without one, as when a file is run by itself, the host unpacks the image.
 */
export async function seedLayers(stateDirectory: string): Promise<void> {
  const shared = process.env['HATCH_TEST_LAYERS'];
  const images = join(stateDirectory, 'images');
  if (shared === undefined || existsSync(images)) return;
  const source = join(shared, 'images');
  if (!existsSync(source)) await unpackBaseImage(source);
  await mkdir(stateDirectory, { recursive: true, mode: 0o700 });
  // Hard links: nobody writes to a layer, and records are replaced, never changed.
  const isNear = statSync(stateDirectory).dev === statSync(source).dev;
  await run('cp', ['--archive', ...(isNear ? ['--link'] : []), source, images]);
}

async function unpackBaseImage(root: string): Promise<void> {
  const partial = `${root}-${process.pid}`;
  const store = await LayerStore.open({ root: partial });
  await store.importLayout({ directory: baseImage });
  await store.close();
  await rename(partial, root);
}
