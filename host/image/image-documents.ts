/** From an index, by platform, to the manifest and configuration of one image, each verified. */
import { HatchError } from '../base/errors.ts';
import { digestOf } from './digest.ts';
import type { Digest } from './digest.ts';
import { isIndex, parseConfig, parseIndex, parseManifest, selectEntry } from './manifest.ts';
import type { Descriptor, ImageConfig, ImageManifest, Platform } from './manifest.ts';
import type { ImageOrigin } from './records.ts';

/** Documents of an image, checked against their digests; its layers are not yet. */
export interface ImageDocuments {
  /** Of the manifest. */
  digest: Digest;
  manifest: ImageManifest;
  manifestBytes: Buffer;
  config: ImageConfig;
  configBytes: Buffer;
}

export const documentBytesMax = 4 * 1024 * 1024;
const nestedIndexesMax = 3;

/** `read` gives the bytes of a document as they are; `where` is for messages. */
export async function findImage(options: {
  entry: Descriptor;
  platform: Platform;
  where: string;
  read: (entry: Descriptor) => Promise<Buffer>;
}): Promise<ImageDocuments> {
  const { platform, where } = options;
  const fail = (reason: string) =>
    new HatchError('image.invalid', `Cannot use image in ${where}: ${reason}`);
  const read = async (entry: Descriptor): Promise<Buffer> => {
    if (entry.size > documentBytesMax)
      throw fail(`document ${entry.digest} is larger than ${documentBytesMax} bytes`);
    const bytes = await options.read(entry);
    if (bytes.length !== entry.size || digestOf(bytes) !== entry.digest)
      throw fail(`blob ${entry.digest} does not match its digest and size`);
    return bytes;
  };
  let { entry } = options;
  for (let depth = 0; isIndex(entry); depth++) {
    if (depth === nestedIndexesMax) throw fail('nested too deep');
    entry = selectEntry(parseIndex(await read(entry)), { platform });
  }
  const manifestBytes = await read(entry);
  const manifest = parseManifest(manifestBytes);
  const configBytes = await read(manifest.config);
  const config = parseConfig(configBytes);
  if (config.diffIds.length !== manifest.layers.length)
    throw fail(
      `it has ${manifest.layers.length} layers, ` +
        `but its configuration names ${config.diffIds.length}`,
    );
  if (config.os !== platform.os || config.architecture !== platform.architecture)
    throw fail(`it is for ${config.os}/${config.architecture}`);
  return { digest: entry.digest, manifest, manifestBytes, config, configBytes };
}

/** As they were when the image was stored; undefined where they are not known. */
export function documentsOf(origin: ImageOrigin | undefined): ImageDocuments | undefined {
  if (origin === undefined) return undefined;
  const manifestBytes = Buffer.from(origin.manifest);
  const configBytes = Buffer.from(origin.configuration);
  const manifest = parseManifest(manifestBytes);
  const config = parseConfig(configBytes);
  return { digest: digestOf(manifestBytes), manifest, manifestBytes, config, configBytes };
}
