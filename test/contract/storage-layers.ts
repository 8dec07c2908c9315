/** Layers for storage tests: directories with given files, in a place that is removed after. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

export interface Layers {
  /** A layer holding these files; `suffix` becomes the end of its path. */
  make(files: Record<string, string | Buffer>, suffix?: string): string;
  path(name: string): string;
}

export async function withLayers(
  body: (layers: Layers) => Promise<void> | void,
  parent = tmpdir(),
): Promise<void> {
  const place = fs.mkdtempSync(join(parent, 'hatch-storage-'));
  fs.chmodSync(place, 0o755);
  let count = 0;
  const layers: Layers = {
    make(files, suffix = '') {
      const layer = join(place, `layer-${count++}${suffix}`);
      fs.mkdirSync(layer);
      for (const [path, content] of Object.entries(files)) {
        fs.mkdirSync(dirname(join(layer, path)), { recursive: true });
        fs.writeFileSync(join(layer, path), content);
      }
      return layer;
    },
    path: (name) => join(place, name),
  };
  try {
    await body(layers);
  } finally {
    fs.rmSync(place, { recursive: true, force: true });
  }
}

/** Every name below a directory, sorted. */
export function treeOf(directory: string): string[] {
  return fs.readdirSync(directory, { recursive: true, encoding: 'utf8' }).toSorted();
}
