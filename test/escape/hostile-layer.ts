/** Deploys a function whose layer is made by hand, as somebody might who speaks to NATS himself. */
import { Readable } from 'node:stream';
import { parseManifest } from '../../host/function/manifest.ts';
import { FunctionRegistry } from '../../host/function/registry.ts';
import { digestOf, type Digest } from '../../host/image/digest.ts';
import type { TestHost } from '../support/host.ts';
import { tarOf, type Entry } from '../support/unpack-bench.ts';

export type LayerEntry = Entry & { text?: string };

export interface HostileOptions {
  /** Of the layer, as the deploy says, truly or not. */
  diffId?: Digest;
  sizeBytes?: number;
  manifest?: Record<string, unknown>;
  handler?: string;
}

const plainHandler = 'exports.handler = () => "started";';

/** The layer has a handler, and the given entries before it. */
export async function deployLayer(
  host: TestHost,
  name: string,
  entries: readonly LayerEntry[],
  options: HostileOptions = {},
) {
  const own: Entry = { name: 'function/handler.cjs', mode: 0o644 };
  const tar = await tarOf([
    ...entries.map(({ text = '', ...entry }): [Entry, string] => [entry, text]),
    [own, options.handler ?? plainHandler],
  ]);
  return deployBlob(host, name, tar, options);
}

export async function deployBlob(
  host: TestHost,
  name: string,
  blob: Buffer,
  { diffId, sizeBytes, manifest }: HostileOptions = {},
) {
  const digest = digestOf(blob);
  const registry = await FunctionRegistry.open(host.connection);
  try {
    await registry.putLayer(Readable.from([blob]), digest);
  } finally {
    await registry.close();
  }
  return host.client.ask('deploy', {
    manifest: parseManifest({ ...manifest, name, entry: 'handler.cjs' }),
    entryPath: '/function/handler.cjs',
    layer: {
      digest,
      diffId: diffId ?? digest,
      sizeBytes: sizeBytes ?? blob.length,
      mediaType: 'application/vnd.oci.image.layer.v1.tar',
    },
  });
}
